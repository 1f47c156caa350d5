"""`make bench`: the figures that the project promises, measured on this machine, beside what was promised.

Whole processes are run several times and their best and median printed: machines are shared and noisy, so the best is what
the code costs and the distance to the median is the noise. Nothing here fails; it tells.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from blackstart.drills.finished import InjectedFault
from blackstart.drills.loading import load_scenario, load_service
from blackstart.drills.measure import prober
from blackstart.drills.measure.measurement import measure
from blackstart.drills.measure.observed import Observed, Window
from blackstart.drills.measure.probing import Prober, probe_config
from blackstart.drills.measure.samples import read_samples
from blackstart.drills.replay import read_run
from blackstart.reports.files import write_reports
from blackstart.scenarios.demo import Demo
from blackstart.tests import reference_server

BLACKSTART = [str(Path(sys.executable).with_name("blackstart"))]


def row(what: str, promised: str, measured: str) -> None:
    print(f"{what:<58} {promised:<22} {measured}", flush=True)


MEASURE = """
import os, sys, time
began = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
usage = os.wait4(pid, 0)[2]
print(time.perf_counter() - began, usage.ru_maxrss)
"""


def whole(command: list[str], times: int = 7) -> str:
    """Wall time and peak memory of a command, run several times; started from a small process, whose size would count as well."""
    walls, peaks = [], []
    for _ in range(times):
        said = subprocess.run(
            [sys.executable, "-I", "-S", "-c", MEASURE, *command], capture_output=True, text=True, check=True
        ).stdout
        walls.append(float(said.split()[0]))
        peaks.append(int(said.split()[1]) / 1024)
    return f"{min(walls):.3f} s (median {statistics.median(walls):.3f}), {min(peaks):.0f} MiB"


def commands(folder: Path) -> None:
    row("--help", "<= 0.15 s, 20 MiB", whole([*BLACKSTART, "--help"]))
    row("--version", "<= 0.15 s, 20 MiB", whole([*BLACKSTART, "--version"]))
    for steps, promised in ((5, "<= 0.25 s"), (2000, "<= 0.6 s")):
        path = folder / f"steps-{steps}.yaml"
        faults = "".join(f"  - {{kind: process-hang, target: {{count: 1}}, at: {i}ms, for: 1s}}\n" for i in range(steps))
        path.write_text(
            f"apiVersion: blackstart/v1\nkind: Scenario\nname: steps\nobjectives: {{rto: 60s}}\nobserve: 1h\nfaults:\n{faults}",
            encoding="utf-8",
        )
        row(f"validate {steps} steps", promised, whole([*BLACKSTART, "validate", str(path)]))


SERVER = "apiVersion: blackstart/v1\nkind: Service\nname: reference\nplatform: process\nprocess: {{port: {port}}}\nendpoint: {{url: '{url}', protocol: http, path: /}}\nprobe: {{rate: 50/s}}\n"
DRILL = "apiVersion: blackstart/v1\nkind: Scenario\nname: outage\nsteady_state: {hold: 3s}\nobserve: 20s\nsettle: 3s\nobjectives: {rto: 10s}\nfaults: [{kind: process-hang}]\n"


def outage(behaviour: str, folder: Path) -> tuple[bool, float, float, float]:
    """A scripted outage of 3.000 s at 50 Hz: whether the interval holds the truth, its width, the prober's share of a core, bytes."""
    (folder / "drill.yaml").write_text(DRILL, encoding="utf-8")
    scenario = load_scenario(folder / "drill.yaml")
    with reference_server.start() as server:
        (folder / "service.yaml").write_text(SERVER.format(port=server.port, url=server.url), encoding="utf-8")
        service = load_service(folder / "service.yaml")
        samples, origin = folder / f"samples-{behaviour}", time.monotonic()
        config = probe_config(service, scenario, (), samples, origin, 7)
        config["lanes"] = [lane for lane in config["lanes"] if lane["kind"] == "fresh"]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        with Prober() as probing:
            probing.start(config)
            began = time.monotonic()
            server.play([(4.0, behaviour, 3.0), (4.0, "ok", 0.1)])
            truth = server.outages(1)[0]
            while time.monotonic() < truth.end[1] + 4:
                time.sleep(0.05)
            ended = time.monotonic()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seen = read_samples(samples)
    fault = InjectedFault(
        0, "process-hang", (), "", "now", truth.start[0] - origin, None, None, None, None, undo_verified=True, undo_evidence=None
    )
    window = Window(began - origin, truth.start[0] - origin, truth.start[0] - origin, ended - origin)
    found = measure(scenario, Observed(seen.lanes, seen.probes, (), (), seen.clock, (fault,), window)).recovery.recovery_time
    assert found is not None, f"{behaviour}: no outage was seen"
    shortest, longest = truth.end[0] - truth.start[1], truth.end[1] - truth.start[0]
    holds = found.lo_s <= longest and found.hi_s >= shortest
    busy = (after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime) / (ended - began)
    size = sum(path.stat().st_size for path in samples.iterdir()) / (ended - began)
    return holds, found.width_s * 1000, busy, size


def accuracy(folder: Path) -> None:
    for behaviour, width in (("refuse", 40), ("503", 40), ("reset", 40), ("hang", 60)):
        holds, width_ms, busy, _ = outage(behaviour, folder)
        row(
            f"outage of 3.000 s, {behaviour}, at 50 Hz",
            f"<= {width} ms wide, 6 %",
            f"{width_ms:.0f} ms wide, {'holds' if holds else 'DOES NOT HOLD'} the truth; prober and echo {busy:.1%} of a core (start included)",
        )


NOTHING = """\
apiVersion: blackstart/v1
kind: Scenario
name: nothing
steady_state: {hold: 4s}
settle: 1s
observe: 10s
objectives: {rto: 10s}
faults: [{kind: command, inject: [touch, MARK], verify: [test, -e, MARK], recover: [rm, -f, MARK], for: 10ms, deadline: 30s}]
"""


def drills(folder: Path) -> None:
    (folder / "nothing.yaml").write_text(NOTHING.replace("MARK", str(folder / "mark")), encoding="utf-8")
    walls, waits = [], []
    with reference_server.start() as server:
        (folder / "service.yaml").write_text(SERVER.format(port=server.port, url=server.url), encoding="utf-8")
        for _ in range(5):
            began = time.perf_counter()
            command = [*BLACKSTART, "run", str(folder / "nothing.yaml"), "--service", str(folder / "service.yaml"), "--yes"]
            subprocess.run([*command, "--out", str(folder / "runs")], check=False, capture_output=True)
            walls.append(time.perf_counter() - began)
            run = read_run((folder / "runs" / "latest").resolve())
            waits.append(run.plan["phase_s"] + waiting(run.journal))
    beyond = [wall - wait for wall, wait in zip(walls, waits, strict=True)]
    row(
        "a drill that does nothing, beyond its own waiting",
        "<= 0.35 s",
        f"{min(beyond):.2f} s (median {statistics.median(beyond):.2f})",
    )
    with Demo.started() as demo:
        command = [*BLACKSTART, "run", "replica-kill-midstream", "--service", str(demo.service_file), "--yes"]
        subprocess.run([*command, "--out", str(folder / "runs")], check=False, capture_output=True)
    began = time.perf_counter()
    run = read_run((folder / "runs" / "latest").resolve())
    write_reports(run)
    row("report of replica-kill-midstream, recomputed", "<= 0.5 s", f"{time.perf_counter() - began:.2f} s")
    size = sum(path.stat().st_size for path in [*(run.folder / "samples").iterdir(), run.folder / "journal.jsonl"])
    lanes = len(run.measurement.lanes)
    row(
        "journal and samples per probe second and lane",
        "<= 0.3 kB",
        f"{size / run.ended_s / lanes / 1000:.2f} kB over {lanes} lanes",
    )


def waiting(journal: tuple) -> float:
    """What the drill itself asked to wait for: the baseline with its last answers, and after the fault watching and settling."""
    moments = {record.event: record.t_s for record in journal}
    return moments["steady"] - moments["baseline"] + moments["recovered-live"] - moments["undo-verified"]


def install(folder: Path) -> None:
    core, distributions = installed(folder / "core", "")
    row("core install", "<= 30 MB, 20 dists", f"{core:.1f} MB, {distributions} distributions")
    more, distributions = installed(folder / "kubernetes", "[kubernetes]")
    row("what the Kubernetes extra adds", "<= 70 MB", f"{more - core:.1f} MB; {distributions} distributions in all")


def installed(place: Path, extra: str) -> tuple[float, int]:
    """MB of an installation into an empty folder, and its distributions."""
    root = f"{Path(__file__).parents[1]}{extra}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", str(place), root], check=True)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e6
    return size, len(list(place.glob("*.dist-info")))


IN_CLUSTER = "apiVersion: blackstart/v1\nkind: Service\nname: s\nplatform: kubernetes\nkubernetes: {namespace: n, workload: deployment/d}\nendpoint: {url: 'http://127.0.0.1:9', protocol: http}\n"


def kubernetes(folder: Path) -> None:
    """Whoever listens there hangs up at once: it is only asked when the question came."""
    (folder / "in-cluster.yaml").write_text(IN_CLUSTER, encoding="utf-8")
    took = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        known = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.getsockname()[1]}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        (folder / "kubeconfig").write_text(json.dumps(known), encoding="utf-8")
        environment = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig")}
        command = [*BLACKSTART, "plan", "replica-kill-midstream", "--service", str(folder / "in-cluster.yaml")]
        for _ in range(7):
            began = time.perf_counter()
            with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                server.accept()[0].close()
                took.append(time.perf_counter() - began)
                process.kill()
    row(
        "from start to the first call of a cluster's API", "<= 1.2 s", f"{min(took):.2f} s (median {statistics.median(took):.2f})"
    )


PARTS: dict[str, Callable[[Path], None]] = {
    "commands": commands,
    "accuracy": accuracy,
    "drills": drills,
    "kubernetes": kubernetes,
    "install": install,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=[*PARTS, []])
    asked = parser.parse_args().parts
    print(json.dumps({"python": sys.version.split()[0], "cores": os.cpu_count(), "record bytes": prober.RECORD.size}))
    row("figure", "promised", "measured")
    with tempfile.TemporaryDirectory(prefix="blackstart-bench-") as folder:
        os.environ["BLACKSTART_STATE_DIR"] = str(Path(folder) / "state")
        os.environ["BLACKSTART_RUNTIME_DIR"] = str(Path(folder) / "rt")
        (Path(folder) / "state").mkdir()
        for part in asked:
            PARTS[part](Path(folder))


if __name__ == "__main__":
    main()
