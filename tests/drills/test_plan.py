"""`plan`: it shows what will be hit, measured, judged and put back, can be repeated exactly, and does not mind a drill under way."""

import json
import re
import signal
from pathlib import Path

import pytest
from blackstart.scenarios.demo import Demo
from blackstart.tests.command import Blackstart, kill_quietly
from blackstart.tests.drills.expected import EXPECTED

HANG = (
    "apiVersion: blackstart/v1\nkind: Scenario\nname: held\nobjectives: {rto: 60s}\nsteady_state: {hold: 3s}\nsettle: 3s\n"
    "observe: 60s\nfaults:\n  - {kind: process-hang, role: engine, target: {names: [r0]}, for: 50s}\n"
)


def test_a_plan_tells_what_is_measured_judged_and_put_back(blackstart: Blackstart, demo: Demo) -> None:
    done = blackstart("plan", "silent-weight-corruption", "--service", demo.service_file)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "judged by: rto 1m; quality_loss 0" in text
    for lane in ("fresh 30/s", "semantic 2/s", "replica:r0 1/s", "health:/ready 2/s", "workload 2/s", "ledger 2/s"):
        assert lane in text.partition("probed by: ")[2]
    record = text.partition("undo record: ")[2]
    assert re.match(
        r"files\.r[01]\.parts\.path \S+/model\.safetensors; files\.r[01]\.parts\.digest sha256:\w{12}…; files\.r[01]\.parts\.mode 644",
        record,
    )
    assert "undone by: the agent that keeps the originals" in text


def refused(blackstart: Blackstart, fault: str, service: Path) -> str:
    scenario = blackstart.folder / "refused.yaml"
    scenario.write_text(f"{HANG.rpartition('  - ')[0]}  - {fault}\n", encoding="utf-8")
    done = blackstart("plan", scenario, "--service", service)
    assert done.code == 2, done.out
    return done.err


def test_what_would_show_nothing_or_be_refused_later_is_refused(blackstart: Blackstart, demo: Demo) -> None:
    """The demo reads its weights through a mapping; a service file that does not say so is taken at its word."""
    profile = json.loads(demo.service_file.read_text(encoding="utf-8"))
    copied = demo.service_file.with_name("copied.yaml")
    copied.write_text(json.dumps({**profile, "model": {**profile["model"], "load": "at-start"}}), encoding="utf-8")
    in_place = "{kind: model-corrupt, mutation: nan-one, target: {names: [r0]}, for: 50s}"
    otherwise = "write `load: mmap` under `model` in the service file"
    told = [refused(blackstart, fault, copied) for fault in (in_place, in_place.replace("nan-one", "header"))]
    assert all("not injecting: model-corrupt bites only when r0 starts again" in each for each in told)
    assert [otherwise in each for each in told] == [True, False]
    wipe = "{kind: cache-wipe, path: /etc, target: {names: [r0]}}"
    assert "not injecting: /etc is a folder of the system, and no cache" in refused(blackstart, wipe, demo.service_file)
    weights = Path(profile["model"]["path"].replace("{name}", "r0"))
    twin = weights.with_name("twin")
    twin.hardlink_to(weights)
    try:
        assert "has 2 names (hard links)" in refused(blackstart, in_place, demo.service_file)
    finally:
        twin.unlink()


def test_a_large_cache_is_told_in_a_few_lines(blackstart: Blackstart, demo: Demo, tmp_path: Path) -> None:
    cache = demo.folder / "caches" / "r0"
    (cache / "deep").mkdir(parents=True)
    for number in range(1035):
        (cache / ("deep" if number % 2 else ".") / f"kernel-{number:04}").write_bytes(b"xyz")
    wipe = "{kind: cache-wipe, path: 'caches/{name}', target: {names: [r0]}, for: 50s}"
    restart = "{kind: rollout-restart, target: {names: [r0]}, at: 45s}"
    (tmp_path / "wipe.yaml").write_text(f"{HANG.rpartition('  - ')[0]}  - {wipe}\n  - {restart}\n", encoding="utf-8")
    done = blackstart("plan", tmp_path / "wipe.yaml", "--service", demo.service_file)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert (
        "r0.tree 1,035 files with 3,105 bytes, 1 folders: deep, kernel-0000, kernel-0002, kernel-0004, kernel-0006 and 1,031 more"
        in text
    )
    assert "r0.entries deep, kernel-0000, kernel-0002, kernel-0004, kernel-0006 and 514 more" in text
    assert len(done.out.splitlines()) < 40


def test_a_plan_as_json_has_lanes_and_objectives(blackstart: Blackstart, demo: Demo) -> None:
    found = json.loads(blackstart("plan", "replica-kill-midstream", "--service", demo.service_file, "--json").out)
    assert found["objectives"] == {"rto": "1m", "rpo": "0s", "quality_loss": 0}
    lanes = {lane["name"]: lane for lane in found["lanes"]}
    assert lanes["stream"] == {"name": "stream", "kind": "stream", "rate_per_s": None, "open": 4}
    assert lanes["ledger"]["rate_per_s"] == 10
    assert "url" not in json.dumps(found["lanes"])


def test_a_link_proxy_that_stands_there_takes_no_privilege(blackstart: Blackstart, demo: Demo, tmp_path: Path) -> None:
    """In a cluster the same fault needs a container beside the victim."""
    allowed = blackstart("plan", "router-worker-partition", "--service", demo.service_file, "--max-privilege", "api")
    assert allowed.code == 0, allowed.err
    assert "needs: api" in allowed.out
    (tmp_path / "held.yaml").write_text(HANG, encoding="utf-8")
    refused = blackstart("plan", tmp_path / "held.yaml", "--service", demo.service_file, "--max-privilege", "api")
    assert refused.code == 2
    assert "process-hang takes the privilege exec, and api is the most that is allowed" in refused.err


def test_load_from_pods_is_refused_where_there_are_none(blackstart: Blackstart, demo: Demo) -> None:
    refused = blackstart("plan", "replica-kill-midstream", "--service", demo.service_file, "--set", "load.pods=2")
    assert refused.code == 2
    assert "not injecting: `load.pods` is 2, but the service is probed from here; write `probe: {from: in-cluster" in refused.err


@pytest.mark.parametrize(("scenario", "objective"), [("rollout-drain", "streams_cut"), ("token-stall", "stream_gap")])
def test_what_is_judged_by_streams_is_refused_where_there_are_none(
    blackstart: Blackstart, demo: Demo, scenario: str, objective: str
) -> None:
    profile = json.loads(demo.service_file.read_text(encoding="utf-8"))
    profile["endpoint"]["protocol"] = "kserve-v2"
    del profile["golden"]
    elsewhere = blackstart.folder / "kserve.yaml"
    elsewhere.write_text(json.dumps(profile), encoding="utf-8")
    planned = blackstart("plan", scenario, "--service", elsewhere)
    assert planned.code == 2
    assert f"objective `{objective}` is judged by open streams, which exist in protocol openai only" in " ".join(
        planned.err.split()
    )
    assert "protocol openai, which streams" in " ".join(blackstart("scenarios", scenario).out.replace("#", "").split())


def test_a_plan_can_be_repeated_exactly(blackstart: Blackstart, demo: Demo) -> None:
    """Without a seed each plan draws anew; the one that it shows pins victims and phase."""
    victims = set()
    for seed in range(6):
        words = ("plan", "engine-hang-zombie", "--service", demo.service_file, "--set", f"seed={seed}")
        victims.add(blackstart(*words).out.partition(" of 2: ")[2].partition(" ")[0])
    assert victims == {"r0", "r1"}
    first = blackstart("plan", "engine-hang-zombie", "--service", demo.service_file).out
    pinned = re.findall(r"to run exactly this: --set (seed=\d+)", first)
    assert blackstart("plan", "engine-hang-zombie", "--service", demo.service_file, "--set", *pinned).out == first


def test_a_drill_under_way_is_told_and_no_hindrance(blackstart: Blackstart, demo: Demo, tmp_path: Path) -> None:
    held = tmp_path / "held.yaml"
    held.write_text(HANG, encoding="utf-8")
    process, folder = blackstart.in_fault(held, demo.service_file)
    meanwhile = blackstart("plan", "replica-kill-midstream", "--service", demo.service_file)
    assert meanwhile.code == 0, meanwhile.err
    assert "replica-kill once on 1 of 2" in meanwhile.out
    assert f"is being drilled by {folder.name}" in meanwhile.err
    assert "recover" not in meanwhile.err
    assert blackstart("run", held, "--service", demo.service_file, "--yes").code == 2
    kill_quietly(process, signal.SIGKILL)
    dead = blackstart("plan", "replica-kill-midstream", "--service", demo.service_file)
    assert dead.code == 2
    assert f"blackstart recover {folder.name}" in dead.err
    assert blackstart("recover", "--all").code == 0


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gpu-node-drain", "node-drain has means on platform kubernetes alone, and this is process"),
        ("control-plane-and-dns-down", "dns-break has means on platform docker and kubernetes alone, and this is process"),
        (
            "api-server-unreachable",
            "network-partition as it is written here has means on platform kubernetes alone, and this is process",
        ),
    ],
)
def test_a_shipped_scenario_is_refused_by_name_where_it_has_no_means(
    blackstart: Blackstart, demo: Demo, name: str, why: str
) -> None:
    assert "process" not in EXPECTED[name].on
    refused = blackstart("plan", name, "--service", demo.service_file)
    assert refused.code == 2, refused.out
    assert refused.err.count(why) == 1  # also where two faults share it


def test_slow_reads_that_blackstart_itself_would_wait_for_are_refused(blackstart: Blackstart, demo: Demo) -> None:
    """Its own looks at the same files could not be cut short, nor what it undoes come before them."""
    slow = "{kind: model-corrupt, mutation: slow-read, target: {names: [r0]}}\n  - {kind: rollout-restart, target: {names: [r0]}, at: 1s}"
    why = refused(blackstart, f"{slow}\n  - {{kind: version-skew, target: {{names: [r0]}}, at: 0s}}", demo.service_file)
    assert "model-corrupt holds up version-skew, which reads the same file before it changes that; drill them apart" in why
    why = refused(blackstart, f"{slow}\ndigest: {{}}", demo.service_file)
    assert "model-corrupt holds up the digest lane, which reads the same files; leave one of the two out" in why
    apart = slow.replace("names: [r0]", "names: [r1]", 1)
    assert "bites only when r1 starts again" in refused(blackstart, apart, demo.service_file)
