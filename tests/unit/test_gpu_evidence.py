"""Whose memory and work on a GPU count, by what is told of it: before a fault for its plan, and while it holds for its proof."""

from typing import Any

import pytest
from blackstart.injectors.base import Differs, Evidence, Injector, NotYet, Refusal, Undo
from blackstart.injectors.device_needs import Needs
from blackstart.injectors.devices import devices_of
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.gpu_health import GpuHealthSignal
from blackstart.injectors.gpu_lost import GpuLost
from blackstart.injectors.gpu_trouble import GpuThrottle
from blackstart.injectors.opencl_devices import opencl_device
from blackstart.injectors.platforms.base import Target
from blackstart.injectors.values import Share, Size

R0 = Target("pid:10@1", "r0", "replica")
TARGET, AGENT, STRANGER = 10, 20, 99
UUID, MIB = "GPU-0", 1 << 20
TOTAL = 4096 * MIB
OPENCL_GPU = {
    "device": "opencl:0",
    "kind": "gpu",
    "name": "A",
    "vendor": 0x8086,
    "pci": "0000:03:00.0",
    "uuid": None,
    "hardware": "real",
}
OPENCL_GPU |= {"total_bytes": TOTAL, "temperature_c": 40, "power_w": None, "on_host_memory": False}


def process(pid: int, size: int | None = 300 * MIB, sm: int | None = None, **more: bool) -> dict[str, Any]:
    return {"pid": pid, "bytes": size, "sm": sm, "here": True, "agent": pid == AGENT, "ours": False, **more}


def gpu(*processes: dict[str, Any], used: int = 800 * MIB, **more: object) -> dict[str, Any]:
    words = ("parent", "utilisation", "power_w", "sm_mhz")
    known = {
        "temperature_c": 40,
        "tensor": True,
        "uuid": UUID,
        "name": "A",
        "hardware": "real",
        "compute_mode": 0,
        "mps": False,
        "total_bytes": TOTAL,
    }
    limits = {"power_limit_w": 700.0, "power_set_w": 700.0, "power_least_w": 200.0}
    return {**dict.fromkeys(words), **known, **limits, "used_bytes": used, "processes": list(processes), **more}


class Beside:
    """A platform that sees that one GPU, on which the processes `pids` are the target's, and what an agent has measured."""

    name = "here"

    def __init__(self, found: dict[str, Any], pids: tuple[int, ...] = (TARGET,), measured: dict[str, Any] | None = None) -> None:
        self.found, self.own, self.measured = found, pids, measured

    def pids(self, _: Target) -> tuple[int, ...]:
        return self.own

    def accelerators(self, *_: object, **__: object) -> dict[str, Any]:
        words = dict.fromkeys(("nvml", "cuda", "kfd", "hip", "opencl"), "")
        environment = {str(TARGET): {"CUDA_VISIBLE_DEVICES": UUID}}
        seen = {**words, "gpus": [self.found], "broken": [], "amd": [], "amd_broken": [], "environment": environment}
        return {**seen, "root": True, "pids": self.own, "where": "here"}

    def agent_seen(self, *_: object) -> dict[str, Any]:
        return {"stopped": "", "age_s": 0.0, **(self.measured or {})}


# --- the plan ---


def target_bytes(found: dict[str, Any], pids: tuple[int, ...] = (TARGET,)) -> int | None:
    return devices_of((R0,), Beside(found, pids), None, Needs())["r0"]["target_bytes"]


@pytest.mark.parametrize("injector", [GpuSaturate(), GpuMemoryFill(), GpuThrottle()], ids=lambda injector: injector.kind)
def test_an_agent_of_an_earlier_fault_is_no_stranger(injector: Injector) -> None:
    """A later fault of the drill is planned again while the earlier one holds; who is neither target nor agent still counts."""
    injector.plan((R0,), Beside(gpu(process(TARGET), process(AGENT))))
    with pytest.raises(Refusal, match=f"is also used by pid {STRANGER}, no target's"):
        injector.plan((R0,), Beside(gpu(process(TARGET), process(AGENT), process(STRANGER))))


def test_an_agent_on_an_opencl_gpu_is_no_stranger_and_has_nothing_of_the_targets() -> None:
    for pids in ({TARGET}, {TARGET, AGENT}):
        seen = {"opencl": "", "root": True, "devices": [{**OPENCL_GPU, "processes": [process(TARGET), process(AGENT)]}]}
        found = opencl_device(seen, R0, pids, None, shared=False)
        assert (found["target_bytes"], found["used_bytes"]) == (300 * MIB, 600 * MIB)
    seen["devices"][0]["processes"].append(process(STRANGER))
    with pytest.raises(Refusal, match=f"is also used by pid {STRANGER}, no target's"):
        opencl_device(seen, R0, {TARGET}, None, shared=False)


@pytest.mark.parametrize("wanted", [None, "opencl:0"])
def test_an_opencl_gpu_that_the_target_has_not_open_is_nobodys_to_hit(wanted: str | None) -> None:
    """Also where no other is there that would be the target's, and where others may be hit along with a target."""
    for root in (True, False):
        seen = {"opencl": "", "root": root, "devices": [{**OPENCL_GPU, "processes": []}]}
        with pytest.raises(Refusal, match="have no GPU open" if wanted else "has one of OpenCL's GPUs open") as problem:
            opencl_device(seen, R0, {TARGET}, wanted, shared=True)
        assert ("run blackstart as root" in str(problem.value)) != root


def test_who_does_not_see_the_others_on_an_opencl_gpu_says_that_they_may_be_hit() -> None:
    seen = {"opencl": "", "root": False, "devices": [{**OPENCL_GPU, "processes": [process(TARGET)]}]}
    with pytest.raises(Refusal, match=r"only root sees whether others have opencl:0 .* or write `shared: true`"):
        opencl_device(seen, R0, {TARGET}, "opencl:0", shared=False)
    assert opencl_device(seen, R0, {TARGET}, "opencl:0", shared=True)["device"] == "opencl:0"


def test_where_the_kernel_tells_no_memory_of_an_opencl_gpu_the_target_may_have_most_of_it() -> None:
    """Nor is it taken for the machine's own memory."""
    device = {**OPENCL_GPU, "processes": [process(TARGET, None)]}
    found = opencl_device({"opencl": "", "root": True, "devices": [device]}, R0, {TARGET}, None, shared=False)
    assert (found["target_bytes"], found["used_bytes"], found["on_host_memory"]) == (None, None, False)
    assert GpuMemoryFill().bites(Undo((R0,), {"devices": {"r0": found}})) == "on-restart"


def test_an_agent_in_the_targets_container_has_nothing_of_the_targets() -> None:
    assert target_bytes(gpu(process(TARGET), process(AGENT)), (TARGET, AGENT)) == 300 * MIB


def test_where_nobody_is_listed_though_memory_is_in_use_nobody_tells_whose_it_is() -> None:
    assert target_bytes(gpu(used=3000 * MIB)) is None
    assert target_bytes(gpu(used=0)) == 0
    injector = GpuMemoryFill()
    for used, bites in ((3000 * MIB, "on-restart"), (500 * MIB, "now")):
        assert injector.bites(injector.plan((R0,), Beside(gpu(used=used)))) == bites


def test_without_cuda_only_what_cuda_does_is_refused() -> None:
    """A limit of power is NVML's."""
    platform = Beside(gpu(process(TARGET)))
    there = platform.accelerators()
    platform.accelerators = lambda *_, **__: {**there, "cuda": "libcuda.so.1 cannot be loaded", "hip": "", "devices": []}
    assert GpuThrottle().plan((R0,), platform).prior["limits"]["r0"]["device"] == UUID
    with pytest.raises(Refusal, match=r"libcuda.so.1 cannot be loaded, and the fault is done by the CUDA driver"):
        GpuSaturate().plan((R0,), platform)


SHIMMED = {"pid": TARGET, "hardware": "real", "shim": True, "control": "/run/r0", "open": True}


@pytest.mark.parametrize(
    ("of_target", "of_others", "why"),
    [
        ({"open": False}, (), "the shim in pid 10 of r0 does not heed /run/r0, which was there and no control file"),
        (
            {"hardware": ""},
            (),
            "the libcuda that pid 10 of r0 has loaded cannot be read, so nobody tells whether its GPU is a real one",
        ),
        ({}, ("/run/r1", "/run/r0"), "pid 51, which is none of r0's, has BLACKSTART_CUDA=/run/r0 as well"),
        ({}, ("/run/r1",), "nothing says where r0 answers by itself"),  # which comes after all that
    ],
)
def test_a_lost_gpu_is_refused_where_the_shim_would_not_do_just_that(
    of_target: dict, of_others: tuple[str, ...], why: str
) -> None:
    platform = Beside(gpu())
    others = [{**SHIMMED, "pid": 50 + n, "control": control} for n, control in enumerate(of_others)]
    seen = {"processes": [{**SHIMMED, **of_target}], "shimmed": others}
    platform.accelerators = lambda *_, **__: seen
    with pytest.raises(Refusal) as problem:
        GpuLost().plan((R0,), platform)
    assert why in str(problem.value)


# --- settings that a device does not meet, or that nobody would heed ---

OTHERS = {"kind": "cpu", "device": "opencl:0", "name": "A", "hardware": "real", "total_bytes": TOTAL}


def unmet(injector: Injector, *, device: dict[str, Any] | None = None, **found: object) -> str:
    """Why it is refused on a GPU of NVML's of which that is told, or on OpenCL's `device`."""
    platform = Beside(gpu(process(TARGET), **found))
    seen = platform.accelerators()
    platform.accelerators = lambda *_, **__: {**seen, "devices": [device]}
    with pytest.raises(Refusal) as problem:
        injector.plan((R0,), platform)
    return str(problem.value)


@pytest.mark.parametrize("injector", [GpuSaturate, GpuMemoryFill], ids=lambda injector: injector.kind)
def test_what_would_stop_a_fault_at_once_or_could_not_stop_it_is_refused_by_the_plan(injector: type[Injector]) -> None:
    warm = injector(hottest=45)
    assert f"{UUID} has 45 C already and `hottest` is 45, so the fault would end at once" in unmet(warm, temperature_c=45)
    assert f"nobody tells how hot {UUID} is" in unmet(injector(), temperature_c=None)
    assert f"nobody tells how much power {UUID} takes" in unmet(injector(watts=300), power_w=None)
    warm.plan((R0,), Beside(gpu(process(TARGET), temperature_c=44)))
    injector(watts=300).plan((R0,), Beside(gpu(process(TARGET), power_w=90.0)))


@pytest.mark.parametrize("settings", [{"watts": 300}, {"hottest": 60}])
@pytest.mark.parametrize("injector", [GpuSaturate, GpuMemoryFill], ids=lambda injector: injector.kind)
def test_a_limit_that_nobody_watches_on_a_processor_is_refused(injector: type[Injector], settings: dict[str, int]) -> None:
    said = unmet(injector(device="opencl:0", **settings), device=OTHERS)
    assert "nobody watches how hot opencl:0 (A) is or what it takes; leave out `hottest` and `watts`" in said


def test_tensor_cores_that_are_not_there_are_refused_by_the_plan() -> None:
    assert f"{UUID} has no tensor cores" in unmet(GpuSaturate(kernels="tensor"), tensor=False)
    for device in (OTHERS, {**OPENCL_GPU, "processes": [process(TARGET)]}):
        assert "OpenCL has no tensor cores" in unmet(GpuSaturate(kernels="tensor", device="opencl:0"), device=device)
    for tensor, kernels in ((True, "tensor"), (None, "tensor"), (False, "auto")):
        GpuSaturate(kernels=kernels).plan((R0,), Beside(gpu(process(TARGET), tensor=tensor)))


PROBLEMS = [
    (GpuMemoryFill(leave=Size(1 << 30), leave_share=Share(0.1)), "`leave` is given beside `leave_share`"),
    (GpuSaturate(device=""), "`device` is empty"),
    (GpuMemoryFill(device=" "), "`device` is empty"),
    (GpuThrottle(device=""), "`device` is empty"),
    (GpuHealthSignal(device=""), "`device` is empty"),
    (GpuSaturate(duty=Share(0.005)), "`duty` is 0.5%, of which nothing would be seen; write 1% or more"),
]


@pytest.mark.parametrize(("injector", "why"), PROBLEMS)
def test_a_setting_that_would_be_heeded_by_nobody_is_a_problem(injector: Injector, why: str) -> None:
    (problem,) = injector.problems()
    assert why in problem


def test_settings_at_their_limits_are_none() -> None:
    for injector in (GpuSaturate(duty=Share(0.01)), GpuMemoryFill(leave=Size(0)), GpuMemoryFill(leave_share=Share(0.0))):
        assert not injector.problems()


# --- the proof ---


def undo() -> Undo:
    prior = {"device": UUID, "hardware": "real", "used_bytes": 500 * MIB, "pids": [TARGET], "where": "here"}
    return Undo((R0,), {"devices": {"r0": prior}}, "f.1")


def mine(size: int | None, sm: int | None = None) -> dict[str, Any]:
    return process(AGENT, size, sm, ours=True)


@pytest.mark.parametrize(("sm", "whole", "proven"), [(60, 60, True), (0, 100, False), (None, 100, True), (None, 10, False)])
def test_the_work_of_others_is_no_proof_where_shares_are_told(sm: int | None, whole: int, proven: bool) -> None:
    """An agent that is not among those whose kernels ran has a share of 0; where nobody's is told the whole GPU's counts."""
    marks = [[0.0, 0.0, 0.0], [2.0, 1.0, 0.0]]
    platform = Beside(
        gpu(process(TARGET, sm=100), mine(300 * MIB, sm), utilisation=whole), measured={"marks": marks, "kinds": []}
    )
    injector = GpuSaturate(duty=Share(0.5))
    if proven:
        assert injector.verify(undo(), platform).facts["targets"]["r0"]["pid"] == AGENT
    else:
        with pytest.raises(NotYet, match=f"{UUID} is at {sm if sm is not None else whole} % by NVML, of 50% asked for"):
            injector.verify(undo(), platform)


def held_for(over_s: float, worked: float, waited: float, hardware: str) -> Evidence:
    """The proof of a duty of 80 % after so long, where the device worked that part of it and the agent waited that part for a core."""
    marks = [[0.0, 3.0, 7.0], [over_s, 3.0 + worked * over_s, 7.0 + waited * over_s]]
    platform = Beside(gpu(mine(300 * MIB, 60)), measured={"marks": marks, "kinds": []})
    found = undo()
    found.prior["devices"]["r0"]["hardware"] = hardware
    return GpuSaturate(duty=Share(0.8)).verify(found, platform)


def test_the_duty_that_is_asked_for_has_to_be_there_once_there_was_time_for_it() -> None:
    """Half of it is enough in the first seconds; from five on it is kept within five points."""
    assert held_for(2.0, 0.45, 0.0, "real").facts["targets"]["r0"]["duty"] == pytest.approx(0.45)
    assert "GPU-0 worked 76% of 9.0 s for the agent beside r0" in held_for(9.0, 0.76, 0.0, "real").detail
    with pytest.raises(NotYet, match=f"{UUID} has worked 74% of 9.0 s for the agent, of 80% asked for"):
        held_for(9.0, 0.74, 0.0, "real")
    assert "GPU-0 worked 84% of 9.0 s" in held_for(9.0, 0.84, 0.0, "real").detail
    for hardware, waited in (("real", 0.0), ("opencl-cpu", 0.3)):
        with pytest.raises(NotYet, match=f"{UUID} has worked 95% of 9.0 s for the agent.*, of 80% asked for"):
            held_for(9.0, 0.95, waited, hardware)
    assert held_for(2.0, 0.95, 0.0, "real").facts["targets"]["r0"]["duty"] == pytest.approx(0.95)


def test_what_an_agent_waits_for_a_core_counts_where_cores_do_the_work() -> None:
    shown = held_for(9.0, 0.5, 0.28, "opencl-cpu")
    assert "worked 50% of 9.0 s for the agent (which waited 28% of it for a core) beside r0" in shown.detail
    for hardware, worked, waited in (("opencl-cpu", 0.5, 0.2), ("opencl-cpu", 0.3, 0.6), ("real", 0.5, 0.28)):
        with pytest.raises(NotYet, match="of 80% asked for"):
            held_for(9.0, worked, waited, hardware)


def test_what_is_not_told_of_a_gpu_is_left_out() -> None:
    marks = {"marks": [[0.0, 0.0, 0.0], [2.0, 1.0, 0.0]], "kinds": []}
    limit = {"device": UUID, "hardware": "real", "before_w": 700.0, "limit_w": 400}
    throttled = Undo((R0,), {"limits": {"r0": limit}}, "f.1")
    for power_w, sm_mhz, saturated, limited in (
        (None, None, "60 %; 50% asked for", "to 400 W; hardware"),
        (350.5, 1980, "60 %, 350.5 W, 1980 MHz; 50% asked for", "to 400 W, at 350.5 W, 1980 MHz; hardware"),
    ):
        limits = {"power_limit_w": 400.0, "power_set_w": 400.0}
        found = gpu(mine(300 * MIB, 60), power_w=power_w, sm_mhz=sm_mhz, slowed_by=[], **limits)
        assert saturated in GpuSaturate(duty=Share(0.5)).verify(undo(), Beside(found, measured=marks)).detail
        assert limited in GpuThrottle().verify(throttled, Beside(found)).detail


def test_a_limit_of_power_in_force_that_is_another_limiters_is_no_proof_of_ours() -> None:
    """NVML enforces the least of all limits; ours is the one that can be set, and so is what an undo has to bring back."""
    limit = {"device": UUID, "hardware": "real", "before_w": 700.0, "limit_w": 400}
    throttled = Undo((R0,), {"limits": {"r0": limit}}, "f.1")
    capped = Beside(gpu(power_set_w=700.0, power_limit_w=350.0, slowed_by=[]))
    with pytest.raises(NotYet, match=r"is limited to 700 W \(350 W in force\), not to 400 W"):
        GpuThrottle().verify(throttled, capped)
    assert "is limited to 700 W (350 W in force)" in GpuThrottle().verify_recovered(throttled, capped).detail
    ours = Beside(gpu(power_set_w=400.0, power_limit_w=700.0, slowed_by=[]))
    with pytest.raises(NotYet, match=r"is limited to 400 W \(700 W in force\), not to 400 W"):
        GpuThrottle().verify(throttled, ours)
    with pytest.raises(Differs, match=r"is limited to 400 W \(700 W in force\), and was to 700 W before"):
        GpuThrottle().verify_recovered(throttled, ours)


HELD, LEAVE = 1000 * MIB, 256 * MIB


def filled(size: int | None, free: int, held: int = HELD) -> Beside:
    measured = {"held_bytes": held, "total_bytes": TOTAL, "leave_bytes": LEAVE}
    return Beside(gpu(process(TARGET, TOTAL - free - held), mine(size), used=TOTAL - free), measured=measured)


def test_memory_is_proven_by_what_the_agent_has_of_it() -> None:
    injector = GpuMemoryFill(leave=Size(LEAVE))
    assert injector.verify(undo(), filled(HELD + 300 * MIB, LEAVE)).facts["targets"]["r0"]["agent_bytes"] == HELD + 300 * MIB
    assert injector.verify(undo(), filled(None, LEAVE)).facts["targets"]["r0"]["agent_bytes"] is None
    said = f"and the agent says that it has taken {HELD}"
    with pytest.raises(NotYet, match=f"{300 * MIB} bytes of {UUID} are pid {AGENT}'s by NVML, {said}"):
        injector.verify(undo(), filled(300 * MIB, LEAVE))
    with pytest.raises(NotYet, match=f"{TOTAL - LEAVE} bytes of {UUID} are in use by NVML, and the agent says that it has taken"):
        injector.verify(undo(), filled(None, LEAVE, held=TOTAL))


def test_little_memory_is_not_proven_by_what_was_free_before() -> None:
    """What may be free beyond what was to be left is less than what the agent says that it has taken."""
    injector, little = GpuMemoryFill(leave=Size(LEAVE)), 16 * MIB
    assert injector.verify(undo(), filled(None, LEAVE + MIB, little)).source == "NVML"
    with pytest.raises(NotYet, match=f"{LEAVE + little} bytes of {UUID} are free by NVML, and {LEAVE} were to be left"):
        injector.verify(undo(), filled(None, LEAVE + little, little))


# --- what a false XID leaves ---

OVER = "blackstart: the drill is over; the XID of PCI:ffff:17:00 before was a drill's and none of the driver's [blackstart signal.1 r0]"


class Logged(Beside):
    """Its kernel's log has those lines of the fault."""

    def accelerators(self, *_: object, **__: object) -> dict[str, Any]:
        return {"logged": self.found["lines"]}


@pytest.mark.parametrize(("xid", "lines", "kept"), [(79, [OVER], True), (79, [], False), (31, [OVER], False)])
def test_what_dcgm_keeps_of_a_line_alone_is_told(xid, lines, kept):
    """DCGM 4 reads that log by itself, and nothing there undoes it."""
    injector = GpuHealthSignal(kernel_log=True, xid=xid)
    prior = {"r0": {"device": UUID, "pci": "ffff:17:00", "hardware": "simulated", "dcgm": None}}
    undo = Undo((R0,), {"signals": prior}).stamped("signal.1", injector.kind, {}, 60.0)
    found = injector.verify_recovered(undo, Logged({"lines": lines}))
    assert (f"DCGM 4, where it reads this log, goes on reporting XID {xid} until its host engine starts" in found.detail) == kept
    assert ("the drill is over" in found.detail) == bool(lines)
    assert "goes on reporting XID 79 or 120" in injector.undone_by
