"""Look at a model's files and at what a replica says of them: `model_sight.py VERB REQUEST`, one JSON line, then the end.

One file for Python 3.8 and the standard library: it is imported here for files of this machine, and piped whole into containers
that have nothing but python3. It changes nothing.
"""

import errno
import hashlib
import http.client
import json
import os
import re
import select
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

JSON = Dict[str, Any]
Ranges = Dict[str, Tuple[int, int]]  # name -> (offset, length)
CHUNK = 1 << 20
ANSWER_S = 2.0
LARGEST = 1 << 20
ASK_TO_READ = 0x20000  # FAN_ACCESS_PERM, linux/fanotify.h
HELD = ".blackstart-"  # in the names of what a fault keeps beside the file that it holds
MANIFEST = "blackstart-manifest.json"
# Folders in which Git and the Hugging Face client (`--local-dir`) note what they fetched and when, so that they differ between two
# that fetched the very same model. A hub's cache lies under the latter's name as well, and that holds models.
BOOKKEEPING = re.compile(r"(^|/)(\.git/|\.cache/huggingface/(?!hub/|$))")
NO_PROXY = urllib.request.ProxyHandler({})  # the replica itself is asked, whatever the environment says


def is_bookkeeping(name: str) -> bool:
    """Whether what has that name in a model's folder is no part of the model; a folder's name ends with a slash."""
    return BOOKKEEPING.search(name) is not None


def names(path: str) -> Iterator[str]:
    """Of every file of a model, relative to its folder; of one file its own. Raises OSError as `below` does."""
    if not os.path.isdir(path):
        yield os.path.basename(path)
        return
    for found in below(path):
        name = os.path.basename(found)
        if name != MANIFEST and not (name.startswith(".") and HELD in name):
            yield os.path.relpath(found, path)


def below(folder: str, above: Tuple[Tuple[int, int], ...] = (), inside: str = "") -> Iterator[str]:
    """The path of every file in a folder but for bookkeeping, and of those in folders that are linked there, as a version of a model may
    be. `inside`: this folder's own name in the model's, with a slash.

    Raises OSError, also where a link leads nowhere, or back to one of the folders `above` it: what would be left out is said.
    """
    seen = os.stat(folder)
    here = (seen.st_dev, seen.st_ino)
    if here in above:
        raise OSError(errno.ELOOP, "a link back to a folder that it lies in; remove it", folder)
    for name in os.listdir(folder):
        path, own = os.path.join(folder, name), inside + name
        if os.path.isdir(path):
            if not is_bookkeeping(own + "/"):
                yield from below(path, (*above, here), own + "/")
        elif is_bookkeeping(own):
            continue
        elif os.path.islink(path) and not os.path.exists(path):
            raise OSError(errno.ENOENT, "a link to what is not there; fetch that, or remove the link", path)
        else:
            yield path


def mark(found: os.stat_result) -> List[int]:
    """What changes whenever a file is written or replaced: inode, size, and the moments of the last write and change in ns."""
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def marks(path: str) -> Tuple[str, Dict[str, List[int]]]:
    """The folder that the model lies in, and the mark of each of its files. Raises OSError where it cannot be looked at."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    return folder, {name: mark(os.stat(os.path.join(folder, name))) for name in sorted(names(path))}


def digests(file: str, ranges: Ranges, per_second: int, pause: Callable[[float], None]) -> JSON:
    """SHA-256 of a file and of parts of it, in one pass, at no more than so many bytes a second; `mark` before and after it."""
    whole = hashlib.sha256()
    parts = {name: hashlib.sha256() for name in ranges}
    waiting = sorted(ranges, key=lambda name: ranges[name][0])
    open_: List[str] = []
    position, began = 0, time.monotonic()
    with open(file, "rb", buffering=0) as stream:
        before = mark(os.fstat(stream.fileno()))
        while True:
            data = stream.read(max(1, min(CHUNK, per_second)))
            if not data:
                break
            whole.update(data)
            while waiting and ranges[waiting[0]][0] < position + len(data):
                open_.append(waiting.pop(0))
            for name in open_:
                start, length = ranges[name]
                parts[name].update(data[max(0, start - position) : max(0, start + length - position)])
            position += len(data)
            open_ = [name for name in open_ if sum(ranges[name]) > position]
            ahead = position / per_second - (time.monotonic() - began)
            pause(max(0.0, ahead))  # which also learns that nobody waits any more
    found = {name: part.hexdigest() for name, part in parts.items()}
    return {"sha256": whole.hexdigest(), "parts": found, "before": before, "after": mark(os.stat(file))}


def asked(url: str) -> JSON:
    """The status and body of an answer. Raises OSError where there is none."""
    opener = urllib.request.build_opener(NO_PROXY)
    try:
        with opener.open(url, timeout=ANSWER_S) as answer:
            return {"status": answer.status, "body": answer.read(LARGEST).decode("utf-8", "replace")}
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, "body": ""}
    except (http.client.HTTPException, ValueError) as error:
        raise OSError("the answer is not HTTP (%s)" % type(error).__name__) from error


def read_time(path: str) -> float:
    """Seconds that it takes this process to open a file and read its first byte. Raises OSError."""
    began = time.monotonic()
    with open(path, "rb", buffering=0) as stream:
        stream.read(1)
    return time.monotonic() - began


def unasked(paths: List[str], pids: Optional[List[int]] = None) -> List[str]:
    """Those of these files before which the kernel asks none of these processes, nor any that can be seen from here: fanotify(7), by what
    /proc says of their descriptors (proc(5), fdinfo). About a file that is not there nobody is asked.
    """
    asked: Set[int] = set()
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()] if pids is None else pids:
        try:
            for name in os.listdir("/proc/%d/fdinfo" % pid):
                with open("/proc/%d/fdinfo/%s" % (pid, name), encoding="ascii") as lines:
                    asked.update(_asked_before(line) for line in lines if line.startswith("fanotify ino:"))
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
    return [path for path in paths if _inode(path) not in asked]


def _inode(path: str) -> int:
    """-1, which no mark has: it is not there."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return -1


def _asked_before(line: str) -> int:
    """The inode of a mark by which the kernel asks before it is read; 0: by another one."""
    said = dict(word.partition(":")[::2] for word in line.split()[1:])
    return int(said["ino"], 16) if int(said["mask"], 16) & ASK_TO_READ else 0


def till_told(wait_s: float) -> None:
    """Wait; end as soon as whoever piped this in is gone."""
    if select.select([0], [], [], wait_s)[0] and not os.read(0, 1):
        raise OSError("told to end")


def main(arguments: List[str]) -> int:
    verb, request = arguments[0], json.loads(arguments[1])
    try:
        if verb == "marks":
            folder, found = marks(request["path"])
            answer: JSON = {"folder": folder, "marks": found}
        elif verb == "digests":
            ranges = {name: (start, length) for name, (start, length) in request["ranges"].items()}
            answer = digests(request["path"], ranges, request["per_second"], till_told)
        elif verb == "read-time":
            answer = {"seconds": read_time(request["path"])}
        elif verb == "unasked":
            answer = {"unasked": unasked(request["paths"])}
        else:
            answer = asked(request["url"])
    except OSError as error:
        answer = {"error": "%s: %s" % (error.filename or verb, error.strerror or error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
