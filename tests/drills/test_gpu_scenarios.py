"""The shipped scenarios of a lost GPU, on a small service: GPU and DCGM are simulated, the kernel's log is the machine's own."""

import json
import sys
from pathlib import Path

import pytest
from blackstart.commands import cuda_shim
from blackstart.drills.refusal import Refused
from blackstart.tests.accelerators import HERE, WHOLE, FakeDcgm, FakeGpus, missing, needs_log
from blackstart.tests.command import Blackstart, Done, short
from blackstart.tests.ports import free_port

ONE_REPLICA = ("blast_radius.share=100%", "settle=1s")
CONSENT = {
    "gpu-lost-end-to-end": ("faults[1].kernel_log=true",),
    "gpu-health-signal-only": ("faults[0].kernel_log=true", "faults[0].dcgm=true"),
}
ANY_LANE = ("",)
BRIEF = {
    "gpu-lost-end-to-end": ("objectives.rto=3s", "faults[1].for=3s", "observe=6s"),
    "gpu-health-signal-only": ("faults[0].for=2s", "observe=3s"),
}


@pytest.fixture
def service(blackstart: Blackstart, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service file of one replica on WHOLE, which runs, with the shim before its driver."""
    folder = blackstart.folder
    fakes, dcgm = FakeGpus(folder / "fake"), FakeDcgm(folder / "dcgm")
    for name, value in {**fakes.environment, **dcgm.environment}.items():
        monkeypatch.setenv(name, value)
    try:
        shim = cuda_shim.built(folder)
    except Refused as problem:
        missing(str(problem))
    port = free_port()
    start = [sys.executable, str(HERE / "gpu_victim.py"), str(port), WHOLE]
    environment = {"LD_AUDIT": str(shim), "BLACKSTART_CUDA": str(folder / "r0.control")}
    replica = {"name": "r0", "role": "replica", "port": port, "start": start, "environment": environment}
    whole = {"apiVersion": "blackstart/v1", "kind": "Service", "name": "gpu", "platform": "process"}
    whole |= {"process": {"components": [replica]}, "health": ["/health"]}
    path = folder / "service.yaml"
    path.write_text(json.dumps({**whole, "endpoint": {"url": f"http://127.0.0.1:{port}", "protocol": "http"}}), encoding="utf-8")
    return path


def drilled(blackstart: Blackstart, service: Path, name: str, calm: tuple[str, ...] = ()) -> Done:
    words = short(*CONSENT[name], *ONE_REPLICA, *BRIEF[name])
    return blackstart.telling("run", name, *words, "--service", service, "--yes", within_s=110.0, calm=calm)


@needs_log
def test_a_service_that_has_nothing_in_a_lost_gpus_place_fails(blackstart: Blackstart, service: Path) -> None:
    """It comes back when the fault is undone, and that is no recovery of its own."""
    done = drilled(blackstart, service, "gpu-lost-end-to-end")
    assert (done.code, done.result["verdict"]) == (1, "failed"), done.out + done.err
    assert done.result["hardware"] == "simulated"
    lost, signal = done.result["faults"]
    assert "/health answers 500 (cuMemGetInfo_v2: unknown error)" in lost["evidence"]["detail"]
    assert "NVRM: Xid (PCI:ffff:17:00): 79" in signal["evidence"]["detail"]
    assert lost["undo_verified"]
    assert signal["undo_verified"]
    assert {one["name"]: one["verdict"] for one in done.result["objectives"]}["rto"] == "failed"


@needs_log
def test_a_signal_alone_harms_nobody(blackstart: Blackstart, service: Path) -> None:
    done = drilled(blackstart, service, "gpu-health-signal-only", calm=ANY_LANE)
    assert (done.code, done.result["verdict"]) == (0, "passed"), done.out + done.err
    assert done.result["hardware"] == "simulated"
    (signal,) = done.result["faults"]
    assert "NVRM: Xid (PCI:ffff:17:00): 79" in signal["evidence"]["detail"]
    assert "DCGM has XID 79 as the newest of its GPU 1" in signal["evidence"]["detail"]
    assert signal["undo_verified"]
    assert not done.result["outages"]


def test_without_consent_it_is_refused_by_name(blackstart: Blackstart, service: Path) -> None:
    words = [word for setting in ONE_REPLICA for word in ("--set", setting)]
    done = blackstart("run", "gpu-lost-end-to-end", *words, "--service", service, "--yes")
    assert done.code == 2
    assert "gpu-health-signal says something false of a GPU to whoever watches" in " ".join(done.err.split())
