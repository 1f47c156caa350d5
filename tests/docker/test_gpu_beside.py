"""Faults of accelerators beside containers without python3: the image of the victim is one static program, the driver is simulated.

A runtime that stands in for NVIDIA's puts the driver into the victim and into containers of ours, where they ask for it.
"""

import functools
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors import testing
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.platforms.docker import DockerPlatform
from blackstart.injectors.platforms.docker_api import DockerApi, at
from blackstart.injectors.platforms.docker_spec import DockerSpec
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Share, Size
from blackstart.tests.accelerators import OTHER, WHOLE, FakeGpus, compiled
from blackstart.tests.cluster.steps import scenario
from blackstart.tests.command import Blackstart, Done, another_machine, kill_quietly, until
from blackstart.tests.docker import victims
from blackstart.tests.docker.engine import IMAGE, SOCKET
from blackstart.tests.docker.nvidia_runtime import DRIVER
from blackstart.tests.docker.test_accelerators import NAME, in_memory_fill, refused, written
from blackstart.tests.docker.victims import NETWORK, PORT

BARE, LLM = "blackstart-test/gpu-server", "llm"
CONTEXT_MIB, HAD_MIB = 300, 256
OWN_MIB = CONTEXT_MIB + HAD_MIB
MOST_MIB, LOADING_S = 2500, 1  # what only a restart would miss; the agent has what is free before it is asked for
QUICK = ("steady_state.hold=3s", "settle=3s", "faults[0].for=5s")
LEAVE = Size(256 << 20)
SPEC = DockerSpec(containers=(NAME,), port=PORT)


@pytest.fixture(scope="module")
def gpus(api: DockerApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGpus]:
    """The driver in its place, the image and the network."""
    found = FakeGpus(tmp_path_factory.mktemp("driver") / "gpu")
    (found.folder / "state").chmod(0o666)  # whoever the container runs as
    DRIVER.unlink(missing_ok=True)
    DRIVER.symlink_to(found.folder)
    program = compiled("gpu_server.c", "-static").read_bytes()
    archive = victims.archive({"gpu_server": program}, 0o755)
    words = ["docker", "--host", f"unix://{SOCKET}", "import", "--change", 'ENTRYPOINT ["/gpu_server"]', "-", BARE]
    subprocess.run(words, input=archive, check=True, capture_output=True)
    api.post("/networks/create", {"Name": NETWORK})
    try:
        yield found
    finally:
        api.delete(at("networks", NETWORK))
        api.delete(at("images", BARE))
        DRIVER.unlink()


@contextmanager
def standing(api: DockerApi, name: str = NAME, uuid: str = WHOLE, mib: int = HAD_MIB, **host: Any) -> Iterator[None]:
    """A container, as HostConfig says; others of its network know it as LLM, too."""
    body = {
        "Image": BARE,
        "Cmd": [str(PORT), uuid, str(mib), str(LOADING_S if mib == MOST_MIB else 0)],
        "Env": ["NVIDIA_VISIBLE_DEVICES=all"],
        "HostConfig": {"Runtime": "nvidia", **host},
        "NetworkingConfig": {"EndpointsConfig": {NETWORK: {"Aliases": [LLM]}}},
    }
    made = victims.create(api, name, **body)
    try:
        until(f"{name} to answer", lambda: not victims.mute(api, name)(), 30)
        yield
    finally:
        api.delete(at("containers", made), force="true", v="true")


@pytest.fixture(scope="module")
def replica(api: DockerApi, gpus: FakeGpus) -> Iterator[str]:
    del gpus
    with standing(api):
        yield NAME


def opener(folder: Path) -> Callable[[], DockerPlatform]:
    return functools.partial(victims.opened, folder, f"unix://{SOCKET}", SPEC, "gpu_server")


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("replica")
def test_the_whole_contract(api: DockerApi, gpus: FakeGpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "SETTLE_S", 10.0)  # half of it is the deadline of what is killed while it is held
    check_injector(GpuMemoryFill(leave=LEAVE), opener(tmp_path), (NAME,), effect=lambda: gpus.used_mib(0) > 3000)
    assert (gpus.used_mib(0), gpus.used_mib(1)) == (OWN_MIB, 0)
    until("containers of ours to be gone", lambda: victims.helpers(api) == [], 30)


@pytest.mark.usefixtures("replica")
def test_the_work_of_a_container_beside_it_is_on_the_targets_own_gpu(api: DockerApi, gpus: FakeGpus, tmp_path: Path) -> None:
    """And that is the one GPU which it was given."""
    injector = GpuSaturate(duty=Share(0.5))
    with closing(opener(tmp_path)()) as platform:
        target = until("the replica", lambda: platform.current(NAME))
        undo = injector.plan((target,), platform).stamped("work.0", injector.kind, {}, 60.0)
        injector.inject(undo, platform)
        try:
            (helper,) = victims.helpers(api)
            made = victims.container(api, helper)
            assert f"NVIDIA_VISIBLE_DEVICES={WHOLE}" in made["Config"]["Env"]
            assert (made["HostConfig"]["CapAdd"], made["HostConfig"]["CapDrop"]) == (None, ["ALL"])
            found = until("proof", lambda: proof(injector, undo, platform), 20)
            assert (found.source, found.facts["targets"][NAME]["device"], gpus.share(0) > 10) == ("NVML", WHOLE, True)
            (agent,) = victims.processes(api, "saturate-gpu", helper)
            os.kill(agent, signal.SIGKILL)  # it leaves a record in a container that stands
        finally:
            injector.recover(undo, platform)
        assert "the kernel's process table" in injector.verify_recovered(undo, platform).source
    assert (victims.helpers(api), gpus.used_mib(0)) == ([], OWN_MIB)


def proof(injector: Any, undo: Any, platform: DockerPlatform) -> Any:
    try:
        return injector.verify(undo, platform)
    except testing.FaultError:
        return None


def test_a_replica_that_starts_again_finds_its_memory_taken(api: DockerApi, gpus: FakeGpus, tmp_path: Path) -> None:
    """As vram-hog-on-restart has it; the undo does not wait for a replica that cannot start."""
    injector = GpuMemoryFill(leave=LEAVE)
    with (
        standing(api, "v-most", OTHER, MOST_MIB),
        closing(victims.opened(tmp_path, f"unix://{SOCKET}", DockerSpec(containers=("v-most",), port=PORT))) as platform,
    ):
        target = until("the replica", lambda: platform.current("v-most"))
        undo = injector.plan((target,), platform).stamped("hog.0", injector.kind, {}, 60.0)
        assert injector.bites(undo) == "on-restart"
        injector.inject(undo, platform)
        try:
            platform.kill(target)
            until("it to try in vain", lambda: victims.container(api, "v-most")["RestartCount"] >= 2, 20)
            assert victims.mute(api, "v-most")()
            assert injector.verify(undo, platform).source == "NVML"
        finally:
            injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)
        until("the replica to come back", lambda: not victims.mute(api, "v-most")(), 30)
        assert gpus.used_mib(1) == CONTEXT_MIB + MOST_MIB


PAIR = {
    "v-one": "GPU-22222222-2222-3333-4444-555555555555",
    "v-two": "GPU-33333333-2222-3333-4444-555555555555",
}  # each on one of its own


@contextmanager
def pair(api: DockerApi, gpus: FakeGpus, policy: dict[str, Any], folder: Path) -> Iterator[Path]:
    """The service file of two replicas, each of which has most of its GPU's memory, so that it misses it only when it starts again."""
    with ExitStack() as both:
        for index, (name, uuid) in enumerate(PAIR.items(), 2):
            gpus.add(index, uuid)
            both.enter_context(standing(api, name, uuid, MOST_MIB, RestartPolicy=policy))
        path = folder / "pair.yaml"
        whole = {"apiVersion": "blackstart/v1", "kind": "Service", "name": "pair", "platform": "docker"}
        whole |= {
            "docker": {"containers": list(PAIR), "port": PORT},
            "endpoint": {"url": f"http://{LLM}:{PORT}", "protocol": "http"},
        }
        whole |= {"golden": [{"request": "GET /"}], "probe": {"from": "in-network", "image": IMAGE}}
        path.write_text(json.dumps(whole), encoding="utf-8")
        yield path


def hogged(blackstart: Blackstart, service: Path, *more: str) -> tuple[Done, str, float]:
    """The shipped drill, its victim, and the second at which that answered again; which was not before the memory was given back."""
    words = [word for setting in (*QUICK, *more) for word in ("--set", setting)]
    done = blackstart.telling("run", "vram-hog-on-restart", *words, "--service", service, "--yes")
    hog, kill = done.result["faults"]
    (victim,) = hog["targets"]
    assert kill["targets"] == [victim]
    assert (hog["evidence"]["source"], done.result["hardware"]) == ("NVML", "simulated")
    assert hog["undo_verified"] and kill["undo_verified"]
    back_s = max(each["end_s"][1] for each in done.result["outages"] if each["lane"] == f"replica:{victim}")
    assert back_s > hog["undone_s"][0], done.out
    return done, victim, back_s


@pytest.mark.timeout(180)
def test_vram_hog_on_restart_is_passed_where_the_engine_goes_on_trying(
    blackstart: Blackstart, api: DockerApi, gpus: FakeGpus
) -> None:
    """The other one serves meanwhile, and the drill starts nothing."""
    with pair(api, gpus, {"Name": "always"}, blackstart.folder) as service:
        done, victim, back_s = hogged(blackstart, service, "observe=30s", "objectives.time_to_redundancy=25s")
        assert (done.code, done.result["verdict"]) == (0, "passed"), done.out + done.err
        assert back_s < done.result["faults"][1]["undone_s"][0]
        assert victims.container(api, victim)["RestartCount"] >= 2
        assert (gpus.used_mib(2), gpus.used_mib(3), victims.helpers(api)) == (CONTEXT_MIB + MOST_MIB, CONTEXT_MIB + MOST_MIB, [])


@pytest.mark.timeout(180)
def test_vram_hog_on_restart_is_failed_by_one_that_has_given_up_for_good(
    blackstart: Blackstart, api: DockerApi, gpus: FakeGpus
) -> None:
    """It is back only once the drill starts it."""
    with pair(api, gpus, {"Name": "on-failure", "MaximumRetryCount": 1}, blackstart.folder) as service:
        done, _, back_s = hogged(blackstart, service, "observe=15s", "objectives.time_to_redundancy=12s")
        assert (done.code, done.result["verdict"]) == (1, "failed"), done.out + done.err
        assert {one["name"] for one in done.result["objectives"] if one["verdict"] == "failed"} == {"time_to_redundancy"}
        assert back_s > done.result["faults"][1]["undone_s"][0]


@pytest.mark.usefixtures("replica")
def test_what_a_killed_drill_left_is_recovered_from_another_machine(
    blackstart: Blackstart, api: DockerApi, gpus: FakeGpus
) -> None:
    process, folder = in_memory_fill(blackstart, api, gpus)
    process.send_signal(signal.SIGSTOP)  # so that it cannot see its agent die
    (helper,) = victims.helpers(api)
    assert victims.processes(api, "fill-gpu", helper)
    os.kill(victims.container(api, helper)["State"]["Pid"], signal.SIGKILL)  # its first process: with it the agent has to end
    until("the driver to take back what the agent had", lambda: gpus.used_mib(0) == OWN_MIB, 10)
    kill_quietly(process)
    with another_machine(blackstart.folder) as second:
        done = second("recover", folder)
    assert done.code == 0, done.out + done.err
    assert "gpu-memory-fill: undone" in done.out
    assert (gpus.used_mib(0), victims.helpers(api)) == (OWN_MIB, [])
    assert blackstart("recover", folder.name).code == 0  # this machine's own record of it


def test_a_gpu_that_nobody_tells_is_the_targets_is_refused(api: DockerApi, gpus: FakeGpus, tmp_path: Path) -> None:
    del gpus
    with standing(api, "v-none", "none"), standing(api, "v-runc", "none", Runtime="runc"):
        why = refused(tmp_path, "v-runc", GpuSaturate())
        assert "v-runc" in why
        assert "has no python3" in why
        assert "it runs by the engine's runtime runc and has requested no GPU" in why
        assert "v-none's environment shows it GPU-" in refused(tmp_path, "v-none", GpuSaturate())
        assert "opencl:0 is drilled beside local processes only" in refused(tmp_path, "v-none", GpuSaturate(device="opencl:0"))


def test_a_plan_says_which_way_is_taken_and_why(blackstart: Blackstart, api: DockerApi, replica: str) -> None:
    service = written(blackstart.folder, f"http://{victims.address(api, replica)}:{PORT}")
    file = scenario(blackstart, "{kind: gpu-saturate, for: 10s}")
    told = " ".join(blackstart("plan", file, "--service", service).out.split())
    assert f"done by: an agent in a container of ours beside {NAME}, since container {NAME}" in told
    assert "has no python3" in told
    assert "needs: helper" in told
    refused_ = blackstart("plan", file, "--service", service, "--max-privilege", "exec")
    why = "a container of ours beside it: that takes the privilege helper, and exec is the most that is allowed (--max-privilege"
    assert why in " ".join(refused_.err.split())
