"""What the pod of a drill in the cluster runs: `blackstart run`, and afterwards whatever keeps its folder until somebody has fetched it.

    keep REQUEST    the pod's first process; REQUEST: {"command": [...], "folder": PATH, "keep_s": S, "leave_s": S, "beyond": NAME or null}
    reach           answers questions, a JSON line each, for as long as its input is open (kube_drills.py asks them)
    tar             the run's folder as a tar stream

It passes a SIGTERM on to the drill, which undoes and ends; so the pod needs a grace period that is long enough for that. The folder is
kept for `keep_s`, and in a pod that is being ended for `leave_s`. `beyond` is the ClusterRole under which the drill ran: it goes as soon
as the drill is over, and its binding, which it owns, with it.
One file that needs nothing but the standard library, because it is handed to the pod as an argument, and piped into it.
"""

import base64
import hashlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

HERE = Path(os.environ.get("BLACKSTART_KEEPER_DIR", "/tmp/drill"))  # noqa: S108 - a volume of the pod's own
REQUEST, TOLD, ENDED, STOP, FETCHED = (HERE / name for name in ("request.json", "told", "ended.json", "stop", "fetched"))
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CHUNK = 1 << 16
LOOK_S = 0.1
USAGE = 2  # of blackstart's exit codes: nothing was touched
LAST_WORDS_S = 5.0  # of a process that the drill has left behind, and that holds its standard error
ANSWER_S = 10.0


def keep(request: dict[str, Any]) -> int:
    """The drill, and then its folder; the drill's exit code."""
    HERE.mkdir(parents=True, exist_ok=True)
    _write(REQUEST, request)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))  # as the first process it would ignore it
    try:
        drill = subprocess.Popen(request["command"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as error:
        sys.stderr.write(f"{request['command'][0]}: {error.strerror}: this image must have blackstart[kubernetes] installed\n")
        return USAGE
    assert drill.stderr is not None
    teller = threading.Thread(target=_tell, args=(drill.stderr,), daemon=True)
    teller.start()
    code = _over(drill, asked)
    teller.join(LAST_WORDS_S)
    if request["beyond"]:
        _give_up(request["beyond"])
    _write(ENDED, {"code": code})
    _await_fetched(request["keep_s"], request["leave_s"], asked)
    return code


def _over(drill: "subprocess.Popen[bytes]", asked: list[int]) -> int:
    """Wait for its end, and pass on what is asked of it meanwhile; its exit code as a shell would give it."""
    passed_on, stopped = 0, False
    while True:
        with suppress(subprocess.TimeoutExpired):
            code = drill.wait(LOOK_S)
            return code if code >= 0 else 128 - code
        if not stopped and STOP.exists():
            drill.send_signal(signal.SIGINT)
            stopped = True
        if len(asked) > passed_on:
            drill.send_signal(signal.SIGTERM)
            passed_on = len(asked)


def _tell(stream: IO[bytes]) -> None:
    """What the drill says into a file, for whoever follows, and into the pod's log."""
    with TOLD.open("ab", buffering=0) as told:
        while some := os.read(stream.fileno(), CHUNK):
            told.write(some)
            sys.stderr.buffer.write(some)
            sys.stderr.buffer.flush()


def _await_fetched(keep_s: float, leave_s: float, asked: list[int]) -> None:
    pause, limit = threading.Event(), time.monotonic() + keep_s
    ending = False
    while not FETCHED.exists() and time.monotonic() < limit:
        if asked and not ending:
            ending, limit = True, min(limit, time.monotonic() + leave_s)
        pause.wait(LOOK_S)


def _give_up(name: str) -> None:
    """The rights that this pod has beyond its namespace. What cannot be given up now is removed by whoever fetches."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    with suppress(OSError, http.client.HTTPException):
        trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        connection = http.client.HTTPSConnection(host, port, timeout=ANSWER_S, context=trust)
        headers = {"Authorization": "Bearer " + (ACCOUNT / "token").read_text(encoding="ascii").strip()}
        connection.request("DELETE", f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}", headers=headers)
        connection.getresponse().read()
        connection.close()


def _write(path: Path, content: Any) -> None:
    """Whole or not at all."""
    half = path.with_suffix(".part")
    half.write_text(json.dumps(content), encoding="utf-8")
    half.replace(path)


# --- for whoever follows ---


def reach() -> int:
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
    return 0


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """`told`: how much of the drill's words is known; the rest of them, and its exit code once it has ended. `stop`, `fetched`: noted
    for the first process. `files`: every file of the run's folder with its size and digest.
    """
    for name, mark in (("stop", STOP), ("fetched", FETCHED)):
        if question.get(name):
            mark.touch()
    said: dict[str, Any] = {"ended": json.loads(ENDED.read_text(encoding="utf-8"))["code"] if ENDED.exists() else None}
    if "told" in question and TOLD.exists():  # looked at after `ended`: all that was said before the end is there
        with TOLD.open("rb") as file:
            file.seek(question["told"])
            said["told"] = base64.b64encode(file.read(CHUNK)).decode("ascii")
    if question.get("files"):
        folder = _folder()
        said["files"] = {str(path.relative_to(folder)): _fingerprint(path) for path in _files(folder)}
    return said


def _folder() -> Path:
    return Path(json.loads(REQUEST.read_text(encoding="utf-8"))["folder"])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _fingerprint(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def tar() -> int:
    folder = _folder()
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for path in _files(folder):
            archive.add(path, str(path.relative_to(folder)), recursive=False)
    return 0


def main(arguments: list[str]) -> int:
    if arguments[0] == "keep":
        return keep(json.loads(arguments[1]))
    return {"reach": reach, "tar": tar}[arguments[0]]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
