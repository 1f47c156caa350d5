"""Hold a fault on an accelerator beside its victim, and let go of it whatever becomes of whoever asked.

    gpu_agent.py saturate-gpu REQUEST    REQUEST is JSON, or @FILE; standard input stays open for as long as the fault is to hold
    gpu_agent.py fill-gpu REQUEST
    gpu_agent.py limit-gpu REQUEST
    gpu_agent.py lose-gpu REQUEST
    gpu_agent.py log-xid REQUEST
    gpu_agent.py undo @STATE             from any process, as often as wished: end that agent (the driver takes back what it had) and
                                         put back a limit that it left
    gpu_agent.py look REQUEST            nothing is held or changed: what accelerators there are and who is on them, as one JSON object

The protocol is agent.py's: REQUEST has `fault`, `state` (path of the undo record), `deadline_s`, `lease_s` (or null); the fault ends
when standard input closes (unless `detached`), the lease lapses (a line `renew` or SIGUSR1 renews it), the deadline passes, or on
SIGTERM, SIGINT, SIGHUP. Lines on standard output have `event`: effective, undone, refused (exit 3), failed (1), foreign (4).

Fields of the faults: `device`, a UUID of NVML's (`GPU-...`, `MIG-...`: the CUDA driver is used), a GPU of AMD's by the kernel's unique_id
(`GPU-` and 16 digits) or where it has none by its PCI address (`PCI-0000:43:00.0`: HIP is used), or `opencl:N` (the N-th OpenCL
device); `hottest_c`, `most_w` (null: a tenth more than the device's own limit): beyond one of them the agent lets go by itself, and
waits to be ended. saturate-gpu: `duty` (0..1], `kernels` (auto, fma, tensor). fill-gpu: `leave_bytes`, or `leave_share` of the device's
memory; what others give back meanwhile is taken as well, so that a replica that starts again finds no more than that. `beside_pod` (may be
missing): the UID of the Kubernetes pod that the fault is beside, and ends with. limit-gpu: only
`device` (no slice) and `limit_w`, of the GPU's power; the limit before is in the undo record, since a limit outlives who set it. lose-gpu:
`controls`, files by which cuda_shim.c has calls of CUDA fail in the processes that it is loaded in, until a moment that stands there.
log-xid: `line` goes into the kernel's log, and `over` when the fault ends, since no line can be taken back.
look: `pids` (whose environment is wanted), or `container` (by whose whole ID they are found), `fault` (whose agents are looked for),
`opencl` (whether its devices are wanted).

`dcgm` of log-xid has the `uuid` of a GPU and an `xid`, of which a sample goes into DCGM's cache, and one of 0 when the fault ends; it or
`line` may be null. `dcgm` of look is the UUID of a GPU of which DCGM alone is asked.

A driver that hangs is waited for no longer than LOOK_S by look, UNDO_LIMIT_S by undo (longer where a verb's undo is): the kernel ends the
process then.

What the runtime measured (kernel times by its events, bytes held, the allocation that failed) lies in STATE.seen while the fault holds.
Memory is allocated plainly, never managed (oversubscription can hang a device), and no kernel lasts longer than some 10 ms.

In this order: processes, libraries, who tells of GPUs (NVML, the kernel), who works on them (CUDA, HIP, OpenCL: the same verbs), holding,
the faults one after another, look. BLACKSTART_KERNEL_ROOT is a folder with `sys` and `proc` of a simulated kernel, for tests: whatever is
seen or done by it is called `simulated`.

One file, Python 3.8 and the standard library only, and so longer than others: it is piped whole into containers that have nothing but
python3 and the driver's own libraries. Kernels are PTX, HIP C and OpenCL C in this text; the driver compiles them.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Callable, ClassVar, Dict, NamedTuple

UNDO_S = 10.0  # how long an undo may take before another process does it instead
UNDO_LIMIT_S = 4 * UNDO_S  # of `undo`: the agent's own, until it is killed, another one beside this, and this
LOOK_S = 60.0  # a driver that was not loaded before takes some seconds
SLICE_S = 0.010  # what one kernel takes: short, so that the victim's own kernels get between and an end comes at once
STUCK_S = 20.0  # a device that has not finished such a kernel by then hangs
MOST_OWED_S = 0.25  # what was missed while the device was busy with others is not made up for beyond this
IN_FLIGHT = 2  # so that the device has the next kernel when one ends
SEEN_EVERY_S, SEEN_FOR_S = 0.25, 20.0
WATCH_EVERY_S = 0.5
CHUNKS = (256 << 20, 32 << 20, 2 << 20)  # allocations, the largest first
HOST_RESERVE, HOST_RESERVE_SHARE = 512 << 20, 0.10  # of the machine's memory, where a device uses that
KERNEL = os.environ.get("BLACKSTART_KERNEL_ROOT", "")  # empty: the kernel that this runs on
SIMULATED = "blackstart_simulated"  # a symbol by which a driver's library says so of itself
Record = Dict[str, Any]  # plain JSON; what undo needs, and nothing else


class Refused(Exception):
    """Nothing was changed, and the message says why."""


class Failed(Exception):
    """The fault could not be held, or not be undone."""


class Foreign(Exception):
    """Somebody else changed what the fault had changed; it was left alone, and the record stays until a person has looked."""


class Ended(Exception):
    """The fault has to end before it was wholly in effect."""


class Beyond(Exception):
    """The device is hotter or takes more power than it may, or nobody can tell any more."""


# --- processes: a pid means something only together with its start time, as in agent.py ------------------------------------


def boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as text:
            return text.read().strip()
    except OSError:
        return ""


def start_of(pid: int) -> str:
    """Start time in clock ticks since the boot; empty when it is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as stat:
            fields = stat.read().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def identity(pid: int) -> str:
    return "pid:%d@%s" % (pid, start_of(pid))


def pid_of(name: str) -> int:
    """The pid of an identity `pid:PID@START`, or 0 when that process is gone (its pid may be another's by now)."""
    pid, _, start = name[len("pid:") :].partition("@")
    return int(pid) if start and start_of(int(pid)) == start else 0


def send(name: str, number: int) -> bool:
    """Signal exactly that process. The descriptor is opened before the identity is compared, so that it cannot be recycled."""
    handle = -1
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            handle = os.pidfd_open(int(name[len("pid:") :].partition("@")[0]))  # novermin - asked for above
    try:
        pid = pid_of(name)
        if pid and handle >= 0:
            signal.pidfd_send_signal(handle, number)  # type: ignore[attr-defined, unused-ignore]  # novermin
        elif pid:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    else:
        return bool(pid)
    finally:
        if handle >= 0:
            os.close(handle)


def wait_gone(name: str, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while pid_of(name):
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


# --- libraries of drivers ---------------------------------------------------------------------------------------------------


class Library:
    """A driver's library by its name, with errors that name the call and the code. `simulated`: it says so of itself.

    `others`: names that it has in other versions.
    """

    def __init__(self, name: str, codes: dict[int, str], others: tuple[str, ...] = ()) -> None:
        problems = []
        for each in (name, *others):
            try:
                self.library = ctypes.CDLL(each)
                break
            except OSError as problem:
                problems.append(problem)
        else:
            raise Refused("%s cannot be loaded (%s)" % (name, problems[0])) from problems[0]
        self.name, self.codes = name, codes
        self.simulated = hasattr(self.library, SIMULATED) or bool(KERNEL)

    def has(self, function: str) -> bool:
        return hasattr(self.library, function)

    def code(self, function: str, *arguments: Any) -> int:
        """What the call returns. Raises Failed where the library has no such call."""
        try:
            found = getattr(self.library, function)
        except AttributeError as problem:
            raise Failed("%s has no %s: the driver is too old" % (self.name, function)) from problem
        found.restype = ctypes.c_int
        return int(found(*arguments))

    def call(self, function: str, *arguments: Any) -> None:
        self.check(function, self.code(function, *arguments))

    def check(self, function: str, code: int) -> None:
        if code:
            raise Failed("%s: %s" % (function, self.codes.get(code, "error %d" % code)))


NVML_CODES = {
    1: "NVML is not initialised",
    2: "invalid argument",
    3: "not supported",
    4: "no permission",
    6: "not found",
    9: "the driver is not loaded",
    12: "the driver's library is missing",
    13: "the driver has no such function",
    15: "the GPU is lost",
    18: "the library does not match the driver",
    999: "unknown error",
}
SLOWED = {
    0x1: "nothing to do",
    0x2: "clocks set by somebody",
    0x4: "limit of power",
    0x8: "hardware slowdown",
    0x20: "temperature, by software",
    0x40: "temperature, by hardware",
    0x80: "external power brake",
}
UNKNOWN_BYTES = (1 << 64) - 1  # NVML_VALUE_NOT_AVAILABLE


class Process(ctypes.Structure):
    """nvmlProcessInfo_t of its second version, which the calls that end in _v2 and _v3 fill."""

    _fields_ = [("pid", ctypes.c_uint), ("bytes", ctypes.c_ulonglong), ("instance", ctypes.c_uint), ("compute", ctypes.c_uint)]


class Share(ctypes.Structure):
    """nvmlProcessUtilizationSample_t."""

    _fields_ = [("pid", ctypes.c_uint), ("at", ctypes.c_ulonglong), ("sm", ctypes.c_uint), ("memory", ctypes.c_uint)]
    _fields_ += [("encoder", ctypes.c_uint), ("decoder", ctypes.c_uint)]


class Pci(ctypes.Structure):
    """nvmlPciInfo_t of its third version."""

    _fields_ = [("legacy", ctypes.c_char * 16), ("domain", ctypes.c_uint), ("bus", ctypes.c_uint), ("device", ctypes.c_uint)]
    _fields_ += [("model", ctypes.c_uint), ("board", ctypes.c_uint), ("name", ctypes.c_char * 32)]


class Nvml:
    """What the driver itself says of its GPUs, and who is on them."""

    def __init__(self) -> None:
        self.library = Library("libnvidia-ml.so.1", NVML_CODES)
        code = self.library.code("nvmlInit_v2")
        if code:
            raise Refused("NVML cannot be used: nvmlInit_v2: %s" % NVML_CODES.get(code, "error %d" % code))

    def number(self, function: str, handle: Any, *before: int, kind: Any = ctypes.c_uint) -> int:
        found = kind()
        self.library.call(function, handle, *map(ctypes.c_uint, before), ctypes.byref(found))
        return int(found.value)

    def perhaps(self, function: str, handle: Any, *before: int) -> int | None:
        """None where this device does not tell."""
        with suppress(Failed):
            return self.number(function, handle, *before)
        return None

    def text(self, function: str, handle: Any) -> str:
        found = ctypes.create_string_buffer(128)
        self.library.call(function, handle, found, ctypes.c_uint(len(found)))
        return found.value.decode("ascii", "replace")

    def handle(self, uuid: str) -> Any:
        found = ctypes.c_void_p()
        self.library.call("nvmlDeviceGetHandleByUUID", uuid.encode("ascii"), ctypes.byref(found))
        return found

    def whole(self, handle: Any) -> Any:
        """The GPU that a slice is cut from: temperature and power are its. A GPU is its own."""
        found = ctypes.c_void_p()
        if self.library.has("nvmlDeviceGetDeviceHandleFromMigDeviceHandle"):
            code = self.library.code("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle, ctypes.byref(found))
            return handle if code else found
        return handle

    def devices(self) -> tuple[list[tuple[Any, str | None]], list[str]]:
        """Handles of all that can be computed on, each with the UUID of the GPU that it is a slice of; and what is wrong with others."""
        count = ctypes.c_uint()
        found: list[tuple[Any, str | None]] = []
        broken = []
        self.library.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        for index in range(count.value):
            try:
                gpu = ctypes.c_void_p()
                self.library.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(gpu))
                slices, parent = self.slices(gpu), self.text("nvmlDeviceGetUUID", gpu)
                found += [(slice_, parent) for slice_ in slices] if slices is not None else [(gpu, None)]
            except Failed as problem:
                broken.append("GPU %d of NVML's: %s" % (index, problem))
        return found, broken

    def slices(self, gpu: Any) -> list[Any] | None:
        """MIG devices of a GPU that is cut up; None: it is not."""
        now, then = ctypes.c_uint(), ctypes.c_uint()
        if not self.library.has("nvmlDeviceGetMigMode"):
            return None
        if self.library.code("nvmlDeviceGetMigMode", gpu, ctypes.byref(now), ctypes.byref(then)) or not now.value:
            return None
        found = []
        for index in range(self.number("nvmlDeviceGetMaxMigDeviceCount", gpu)):
            slice_ = ctypes.c_void_p()
            if not self.library.code("nvmlDeviceGetMigDeviceHandleByIndex", gpu, ctypes.c_uint(index), ctypes.byref(slice_)):
                found.append(slice_)
        return found

    def memory(self, handle: Any) -> tuple[int, int]:
        """Bytes in all, and in use."""
        found = (ctypes.c_ulonglong * 3)()
        self.library.call("nvmlDeviceGetMemoryInfo", handle, found)
        return int(found[0]), int(found[2])

    def processes(self, handle: Any, kind: str) -> dict[int, int | None]:
        """For each pid the bytes on the device (None: not told). `kind`: Compute, or MPSCompute for those behind an MPS server."""
        function = "nvmlDeviceGet%sRunningProcesses" % kind
        function += "_v3" if self.library.has(function + "_v3") else "_v2"
        if kind != "Compute" and not self.library.has(function):
            return {}
        rows = (Process * 1024)()
        count = ctypes.c_uint(len(rows))
        self.library.call(function, handle, ctypes.byref(count), rows)
        return {row.pid: None if row.bytes == UNKNOWN_BYTES else row.bytes for row in rows[: count.value]}

    def shares(self, handle: Any) -> dict[int, int]:
        """For each pid the percent of the last second in which its kernels ran; empty where the device does not tell."""
        rows = (Share * 256)()
        count, since = ctypes.c_uint(len(rows)), ctypes.c_ulonglong(int((time.time() - 1.0) * 1e6))
        if not self.library.has("nvmlDeviceGetProcessUtilization"):
            return {}
        if self.library.code("nvmlDeviceGetProcessUtilization", handle, rows, ctypes.byref(count), since):
            return {}
        return {row.pid: row.sm for row in rows[: count.value] if row.sm <= 100}

    def utilisation(self, handle: Any) -> int | None:
        rates = (ctypes.c_uint * 2)()
        return None if self.library.code("nvmlDeviceGetUtilizationRates", handle, rates) else int(rates[0])

    def least(self, gpu: Any) -> float | None:
        """Watts below which no limit can be set; None where none can."""
        lowest, highest = ctypes.c_uint(), ctypes.c_uint()
        function = "nvmlDeviceGetPowerManagementLimitConstraints"
        if not self.library.has(function) or self.library.code(function, gpu, ctypes.byref(lowest), ctypes.byref(highest)):
            return None
        return lowest.value / 1000.0

    def tensor(self, gpu: Any) -> bool | None:
        """Whether its chip has tensor cores for which there is a kernel here; None: not told."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        with suppress(Failed):
            self.library.call("nvmlDeviceGetCudaComputeCapability", gpu, ctypes.byref(major), ctypes.byref(minor))
            return major.value * 10 + minor.value >= PTX["tensor"][1]
        return None

    def reasons(self, gpu: Any) -> list[str]:
        """Why its clocks are lower than they could be."""
        found = ctypes.c_ulonglong()
        for function in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            if self.library.has(function) and not self.library.code(function, gpu, ctypes.byref(found)):
                return [word for bit, word in SLOWED.items() if found.value & bit]
        return []

    def pci(self, gpu: Any) -> str | None:
        """Domain, bus and device as the driver writes them in the kernel's log."""
        found = Pci()
        if not self.library.has("nvmlDeviceGetPciInfo_v3") or self.library.code(
            "nvmlDeviceGetPciInfo_v3", gpu, ctypes.byref(found)
        ):
            return None
        return "%04x:%02x:%02x" % (found.domain, found.bus, found.device)

    def seen(self, handle: Any, parent: str | None) -> Record:
        """One device: bytes, degrees Celsius, watts, MHz, percent.

        Two limits of power: `power_limit_w` is the one in force, the least of all that there are; `power_set_w` is the one that can be set.
        """
        gpu = self.whole(handle)
        total, used = self.memory(handle)
        power, limit = self.perhaps("nvmlDeviceGetPowerUsage", gpu), self.perhaps("nvmlDeviceGetEnforcedPowerLimit", gpu)
        its_own = self.perhaps("nvmlDeviceGetPowerManagementLimit", gpu)
        shared: dict[int, int | None] = {}
        with suppress(Failed):  # many devices do not tell
            shared = self.processes(handle, "MPSCompute")
        processes, shares = {**shared, **self.processes(handle, "Compute")}, self.shares(handle)
        idle = 0 if shares else None  # who is not among those whose kernels ran had none
        return {
            "uuid": self.text("nvmlDeviceGetUUID", handle),
            "pci": self.pci(gpu),
            "parent": parent,
            "name": self.text("nvmlDeviceGetName", gpu),
            "total_bytes": total,
            "used_bytes": used,
            "temperature_c": self.perhaps("nvmlDeviceGetTemperature", gpu, 0),
            "power_w": None if power is None else power / 1000.0,
            "power_limit_w": None if limit is None else limit / 1000.0,
            "power_set_w": None if its_own is None else its_own / 1000.0,
            "power_least_w": self.least(gpu),
            "slowed_by": self.reasons(gpu),
            "sm_mhz": self.perhaps("nvmlDeviceGetClockInfo", gpu, 1),
            "utilisation": self.utilisation(handle),
            "tensor": self.tensor(gpu),
            "compute_mode": self.perhaps("nvmlDeviceGetComputeMode", gpu),
            "mps": bool(shared),
            "processes": [{"pid": pid, "bytes": size, "sm": shares.get(pid, idle)} for pid, size in sorted(processes.items())],
            "hardware": "simulated" if self.library.simulated else "real",
        }


# --- the kernel: of AMD's GPUs all that there is to know, of others how hot they are and who has them open -------------------


def text_of(path: str) -> str | None:
    """What a file of the kernel's says; None where there is no such file, or it does not tell (many fail when they are read)."""
    try:
        with open(KERNEL + path, encoding="utf-8", errors="replace") as text:
            return text.read().strip()
    except OSError:
        return None


def number_of(path: str) -> int | None:
    text = text_of(path)
    return int(text) if text and text.lstrip("-").isdigit() else None


def names_in(path: str) -> list[str]:
    try:
        return sorted(os.listdir(KERNEL + path))
    except OSError:
        return []


class KernelSensor:
    """Temperature, power and clock of the device at that PCI address, by its driver's hwmon (Linux: Documentation/hwmon/sysfs-interface.rst)."""

    def __init__(self, pci: str) -> None:
        folder = "/sys/bus/pci/devices/%s/hwmon" % pci
        self.pci, self.folder = pci, "%s/%s" % (folder, next(iter(names_in(folder)), "none"))

    def told(self, *names: str) -> int | None:
        """What the first of these files says that says anything."""
        return next((found for found in (number_of("%s/%s" % (self.folder, name)) for name in names) if found is not None), None)

    def temperature_c(self) -> int:
        """Of the chip's edge, else of its hottest place, else (a driver that names none) the first. Raises Failed."""
        labels = {text_of("%s/temp%d_label" % (self.folder, n)): "temp%d_input" % n for n in range(1, 6)}
        found = self.told(*[labels[word] for word in ("edge", "pkg", "junction") if word in labels], "temp1_input")
        if found is None:
            raise Failed("the kernel tells no temperature of %s (hwmon)" % self.pci)
        return found // 1000

    def power_w(self) -> float | None:
        found = self.told("power1_average", "power1_input")
        return None if found is None else found / 1e6

    def limit_w(self) -> float | None:
        found = self.told("power1_cap", "power1_max")
        return found / 1e6 if found else None  # 0: there is none


BYTES = {"KiB": 1 << 10, "MiB": 1 << 20}


def client_of(pid: str, handle: str) -> dict[str, str]:
    """What the kernel tells of that open file, where it is one of a GPU's (Linux: Documentation/gpu/drm-usage-stats.rst); else nothing."""
    try:
        node = os.readlink("%s/proc/%s/fd/%s" % (KERNEL, pid, handle))
    except OSError:
        return {}
    if not node.startswith("/dev/dri/"):
        return {}
    lines = (text_of("/proc/%s/fdinfo/%s" % (pid, handle)) or "").splitlines()
    told = {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name.startswith("drm-")}
    place = os.path.realpath("%s/sys/class/drm/%s/device" % (KERNEL, os.path.basename(node)))
    return {"drm-pdev": os.path.basename(place), "drm-client-id": handle, **told}


def summed(told: dict[str, str], *words: str) -> int | None:
    """Of all the values that begin with the first of these words that there are any of; None: none are told."""
    for word in words:
        found = [
            value.split() for name, value in told.items() if name.startswith(word) and not re.search("capacity|cycles", name)
        ]
        if found:
            return sum(int(value[0]) * BYTES.get(value[-1], 1) for value in found)
    return None


def clients(pci: str) -> list[Record]:
    """Who has the GPU at that address open: pid, bytes that the kernel accounts to it, and seconds of its engines (None: not told).

    Only of processes that may be looked at: one's own, for root all that are here.
    """
    found: list[Record] = []
    for pid in (name for name in names_in("/proc") if name.isdigit()):
        opened = [client_of(pid, handle) for handle in names_in("/proc/%s/fd" % pid)]
        own = {told["drm-client-id"]: told for told in opened if told.get("drm-pdev") == pci}  # one client may have it open twice
        sizes = [summed(told, "drm-resident-", "drm-total-", "drm-memory-") for told in own.values()]
        times = [summed(told, "drm-engine-") for told in own.values()]
        size, time_ns = (None if None in many else sum(each or 0 for each in many) for many in (sizes, times))
        if own:
            found.append({"pid": int(pid), "bytes": size, "engine_s": None if time_ns is None else time_ns / 1e9})
    return found


class AmdGpu(NamedTuple):
    """One GPU of AMD's as the kernel knows it. `uuid`: how it is called here; `kfd`: the number that amdkfd gives it."""

    uuid: str
    pci: str
    kfd: int
    chip: str
    units: int
    with_processor: bool


class Kfd:
    """What the kernel says of AMD's GPUs and of who is on them, past HIP.

    amdkfd lists them in topology/nodes and, of each process that has opened it, the bytes on each of them in proc/PID/vram_GPU (Linux:
    drivers/gpu/drm/amd/amdkfd/kfd_topology.c and kfd_process.c; the pids are the host's). A process has a file for every GPU, so who has
    no byte there is not on it. amdgpu tells of memory and work at the PCI address (Documentation/gpu/amdgpu/driver-misc.rst).
    """

    FOLDER = "/sys/class/kfd/kfd"

    def __init__(self) -> None:
        if not os.path.isdir(KERNEL + self.FOLDER):
            raise Refused("the kernel's driver of AMD's GPUs (amdkfd, %s) is not there" % self.FOLDER)

    def node(self, name: str) -> AmdGpu | None:
        """None where that node is no GPU, or (in a container) none that may be used here."""
        folder = "%s/topology/nodes/%s" % (self.FOLDER, name)
        number, said = number_of(folder + "/gpu_id"), text_of(folder + "/properties")
        if not number or not said:
            return None
        told = {word: int(value) for word, _, value in (line.partition(" ") for line in said.splitlines()) if value.isdigit()}
        place, version = told.get("location_id", 0), told.get("gfx_target_version", 0)
        pci = "%04x:%02x:%02x.%x" % (told.get("domain", 0), place >> 8 & 0xFF, place >> 3 & 0x1F, place & 7)
        unique, simds = told.get("unique_id", 0), told.get("simd_per_cu", 0) or 1
        return AmdGpu(
            "GPU-%016x" % unique if unique else "PCI-" + pci,
            pci,
            number,
            "gfx%d%d%x" % (version // 10000, version // 100 % 100, version % 100),
            told.get("simd_count", 0) // simds,
            bool(told.get("cpu_cores_count", 0)),
        )

    def gpus(self) -> tuple[list[AmdGpu], list[str]]:
        """In the order in which ROCm counts them; and what is wrong with others."""
        numbers = sorted(int(name) for name in names_in(self.FOLDER + "/topology/nodes") if name.isdigit())
        found = [gpu for gpu in (self.node(str(number)) for number in numbers) if gpu]
        cut = sorted({gpu.pci for gpu in found if self.partitioned(gpu, found)})
        why = "the GPU at %s is partitioned, and the kernel tells the memory and the work of the whole only"
        return [gpu for gpu in found if gpu.pci not in cut], [why % pci for pci in cut]

    def partitioned(self, gpu: AmdGpu, beside: list[AmdGpu]) -> bool:
        """A container may see only one part; then amdgpu says so (MI300 and later: SPX is the whole)."""
        mode = text_of("/sys/bus/pci/devices/%s/current_compute_partition" % gpu.pci)
        return mode not in (None, "SPX") or len([other for other in beside if other.pci == gpu.pci]) > 1

    def gpu(self, uuid: str) -> AmdGpu:
        found, broken = self.gpus()
        for gpu in found:
            if gpu.uuid == uuid:
                return gpu
        there = "; ".join([", ".join(gpu.uuid for gpu in found) or "no GPU", *broken])
        raise Refused("%s is not there; the kernel (amdkfd) has %s" % (uuid, there))

    def memory(self, gpu: AmdGpu) -> tuple[int, int]:
        """Bytes in all, and in use. Raises Failed."""
        total, used = (number_of("/sys/bus/pci/devices/%s/mem_info_vram_%s" % (gpu.pci, word)) for word in ("total", "used"))
        if total is None or used is None:
            raise Failed("the kernel does not tell the memory of %s (mem_info_vram_*)" % gpu.uuid)
        return total, used

    def processes(self, gpu: AmdGpu) -> dict[int, int]:
        """For each pid that has any the bytes on the GPU. Raises Failed."""
        folder = self.FOLDER + "/proc"
        if not os.path.isdir(KERNEL + folder):
            raise Failed("this kernel does not tell whose memory is on %s (%s, from Linux 5.9 on)" % (gpu.uuid, folder))
        told = {int(pid): number_of("%s/%s/vram_%d" % (folder, pid, gpu.kfd)) for pid in names_in(folder) if pid.isdigit()}
        return {pid: size for pid, size in sorted(told.items()) if size}

    def seen(self, gpu: AmdGpu) -> Record:
        """One device, with the words of Nvml.seen; and where it is. Raises Failed."""
        sensor, device = KernelSensor(gpu.pci), "/sys/bus/pci/devices/" + gpu.pci
        total, used = self.memory(gpu)
        temperature, clock = None, sensor.told("freq1_input")
        with suppress(Failed):
            temperature = sensor.temperature_c()
        return {
            "uuid": gpu.uuid,
            "parent": None,
            "pci": gpu.pci,
            "name": text_of(device + "/product_name") or gpu.chip,
            "total_bytes": total,
            "used_bytes": used,
            "temperature_c": temperature,
            "power_w": sensor.power_w(),
            "power_limit_w": sensor.limit_w(),
            "sm_mhz": None if clock is None else clock // 1000000,
            "utilisation": number_of(device + "/gpu_busy_percent"),
            "tensor": gpu.chip in MATRIX,
            "compute_mode": None,
            "mps": False,
            "processes": [{"pid": pid, "bytes": size, "sm": None} for pid, size in self.processes(gpu).items()],
            "hardware": "simulated" if KERNEL else "real",
        }


# --- GPUs: what the drivers of NVIDIA and AMD have in common -----------------------------------------------------------------

OUT_OF_MEMORY, NOT_READY = 2, 600  # in both
THREADS = 256


class Gpu:
    """One GPU by a driver that speaks as CUDA does. A kernel is launched in rounds; its time comes from the device's own events.

    `call` has the driver's name of each call; `blocks` and `functions` are there once it is open.
    """

    call: ClassVar[dict[str, str]]
    driver: Library
    hardware: str
    blocks: int

    def __init__(self, uuid: str) -> None:
        self.uuid, self.memory = uuid, {}  # type: str, dict[int, int]
        self.functions: dict[str, ctypes.c_void_p] = {}

    def load(self, name: str, image: bytes) -> None:
        """A kernel, from what the driver takes for one."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.driver.call(self.call["load"], ctypes.byref(module), ctypes.c_char_p(image))
        self.driver.call(self.call["function"], ctypes.byref(function), module, b"burn")
        self.functions[name] = function

    def launch(self, kernel: str, rounds: int) -> Any:
        """Put it in the queue; what `busy_s` asks for."""
        events = (ctypes.c_void_p(), ctypes.c_void_p())
        for event in events:
            self.driver.call(self.call["event"], ctypes.byref(event), ctypes.c_uint(0))
        arguments = (ctypes.c_ulonglong(self.output), ctypes.c_uint(rounds))
        pointers = (ctypes.c_void_p * 2)(*(ctypes.addressof(argument) for argument in arguments))
        size = [ctypes.c_uint(number) for number in (self.blocks, 1, 1, THREADS, 1, 1, 0)]
        self.driver.call(self.call["record"], events[0], None)
        self.driver.call(self.call["launch"], self.functions[kernel], *size, None, pointers, None)
        self.driver.call(self.call["record"], events[1], None)
        return events

    def busy_s(self, events: Any) -> float | None:
        """How long it was on the device, slices of time that others got between included; None while it still is."""
        code = self.driver.code(self.call["query"], events[1])
        if code == NOT_READY:
            return None
        self.driver.check(self.call["query"], code)
        took = ctypes.c_float()
        self.driver.call(self.call["elapsed"], ctypes.byref(took), *events)
        for event in events:
            self.driver.call(self.call["forget"], event)
        return took.value / 1000.0

    def free_bytes(self) -> tuple[int, int]:
        """Free, and in all."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.driver.call(self.call["memory"], ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        """A handle; 0 when there is no room. The driver backs it at once, so nothing needs to be touched."""
        found = ctypes.c_ulonglong()
        code = self.driver.code(self.call["allocate"], ctypes.byref(found), ctypes.c_size_t(size))
        if code == OUT_OF_MEMORY:
            return 0
        self.driver.check(self.call["allocate"], code)
        self.memory[found.value] = size
        return found.value

    def release(self, handle: int) -> None:
        del self.memory[handle]
        self.driver.call(self.call["free"], ctypes.c_ulonglong(handle))

    def begin(self, kernels: list[str]) -> None:
        """Where the kernels would write, if they ever wrote."""
        self.output = self.allocate(4096) if kernels else 0

    def close(self) -> None:
        """What was taken is given back; a driver's own part is its class's."""
        for handle in list(self.memory):
            self.release(handle)


# --- the CUDA driver --------------------------------------------------------------------------------------------------------

CUDA_CODES = {
    1: "invalid value",
    OUT_OF_MEMORY: "out of memory",
    3: "the driver is not initialised",
    46: "the device takes no other process (its compute mode)",
    100: "no such device (CUDA_ERROR_NO_DEVICE)",
    101: "invalid device",
    201: "invalid context",
    218: "the kernel's PTX is not accepted",
    222: "the driver is older than the kernel's PTX",
    209: "no kernel for this chip",
    214: "uncorrectable ECC error",
    700: "illegal address",
    719: "launch failure",
    802: "the system is not ready",
    999: "unknown error",
}
FMA = """.version 6.0
.target sm_50
.address_size 64
.visible .entry burn(.param .u64 out, .param .u32 rounds)
{
  .reg .pred %p<3>;
  .reg .f32 %f<10>;
  .reg .b32 %r<4>;
  .reg .b64 %rd<2>;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [rounds];
  mov.u32 %r2, %tid.x;
  cvt.rn.f32.u32 %f1, %r2;
  mov.f32 %f2, 0f3F800000;
  mov.f32 %f3, 0f40000000;
  mov.f32 %f4, 0f40400000;
  mov.f32 %f5, 0f3F7FBE77;
  mov.f32 %f6, 0f3A83126F;
AGAIN:
  setp.eq.u32 %p1, %r1, 0;
  @%p1 bra DONE;
STEPS  sub.u32 %r1, %r1, 1;
  bra AGAIN;
DONE:
  add.f32 %f7, %f1, %f2;
  add.f32 %f8, %f3, %f4;
  add.f32 %f9, %f7, %f8;
  setp.neu.f32 %p2, %f9, 0fC7C35000;
  @%p2 bra NOTHING;
  st.global.f32 [%rd1], %f9;
NOTHING:
  ret;
}
""".replace("STEPS", "".join("  fma.rn.f32 %%f%d, %%f%d, %%f5, %%f6;\n" % (n, n) for n in (1, 2, 3, 4)) * 8)
TENSOR = (
    """.version 6.4
.target sm_70
.address_size 64
.visible .entry burn(.param .u64 out, .param .u32 rounds)
{
  .reg .pred %p<3>;
  .reg .f32 %f<10>;
  .reg .b32 %r<4>;
  .reg .b32 %a<8>;
  .reg .b32 %b<8>;
  .reg .b64 %rd<2>;
  .reg .f32 %c<8>;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [rounds];
FILL
AGAIN:
  setp.eq.u32 %p1, %r1, 0;
  @%p1 bra DONE;
STEPS  sub.u32 %r1, %r1, 1;
  bra AGAIN;
DONE:
SUM  setp.neu.f32 %p2, %c0, 0fC7C35000;
  @%p2 bra NOTHING;
  st.global.f32 [%rd1], %c0;
NOTHING:
  ret;
}
""".replace(
        "FILL",
        "".join(
            "  mov.b32 %%a%d, 0x2C002C00;\n  mov.b32 %%b%d, 0x2C002C00;\n  mov.f32 %%c%d, 0f00000000;\n" % (n, n, n)
            for n in range(8)
        ),
    )
    .replace(
        "SUM",  # of all, or a compiler leaves out what nobody reads
        "".join("  add.f32 %%c0, %%c0, %%c%d;\n" % n for n in range(1, 8)),
    )
    .replace(
        "STEPS",
        "  wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%c0,%c1,%c2,%c3,%c4,%c5,%c6,%c7}, {%a0,%a1,%a2,%a3,%a4,%a5,%a6,%a7}, "
        "{%b0,%b1,%b2,%b3,%b4,%b5,%b6,%b7}, {%c0,%c1,%c2,%c3,%c4,%c5,%c6,%c7};\n" * 8,
    )
)
PTX = {"fma": (FMA, 50), "tensor": (TENSOR, 70)}  # with the least compute capability, times ten


class Cuda(Gpu):
    """One NVIDIA GPU or slice, by the driver API."""

    call: ClassVar[dict[str, str]] = {
        "load": "cuModuleLoadData",
        "function": "cuModuleGetFunction",
        "launch": "cuLaunchKernel",
        "event": "cuEventCreate",
        "record": "cuEventRecord",
        "query": "cuEventQuery",
        "elapsed": "cuEventElapsedTime",
        "forget": "cuEventDestroy_v2",
        "memory": "cuMemGetInfo_v2",
        "allocate": "cuMemAlloc_v2",
        "free": "cuMemFree_v2",
    }

    def __init__(self, uuid: str) -> None:
        super().__init__(uuid)
        os.environ["CUDA_VISIBLE_DEVICES"] = uuid  # a slice can be reached in no other way; read by the driver at cuInit
        self.driver = Library("libcuda.so.1", CUDA_CODES)
        self.context, self.device = ctypes.c_void_p(), ctypes.c_int()
        self.hardware = "simulated" if self.driver.simulated else "real"
        self.driver.call("cuInit", ctypes.c_uint(0))
        self.driver.call("cuDeviceGet", ctypes.byref(self.device), ctypes.c_int(0))
        found = (ctypes.c_ubyte * 16)()
        newer = self.driver.has("cuDeviceGetUuid_v2")  # the older call gives a slice the UUID of its GPU
        self.driver.call("cuDeviceGetUuid_v2" if newer else "cuDeviceGetUuid", found, self.device)
        if bytes(found).hex() != uuid.partition("-")[2].replace("-", ""):
            raise Refused("the CUDA driver gives device %s where %s was asked for" % (bytes(found).hex(), uuid))

    def attribute(self, number: int) -> int:
        found = ctypes.c_int()
        self.driver.call("cuDeviceGetAttribute", ctypes.byref(found), ctypes.c_int(number), self.device)
        return found.value

    def on_host_memory(self) -> bool:
        return bool(self.attribute(18))  # CU_DEVICE_ATTRIBUTE_INTEGRATED

    def kernels(self, wanted: str) -> list[str]:
        """Of `fma` and `tensor` those that are wanted and that this chip has. Raises Refused where that is none."""
        chip = self.attribute(75) * 10 + self.attribute(76)
        found = [name for name, (_, least) in PTX.items() if chip >= least and wanted in ("auto", name)]
        if not found:
            raise Refused("%s has compute capability %g, and no kernel of kind %s for it" % (self.uuid, chip / 10, wanted))
        return found

    def open(self, kernels: list[str]) -> None:
        self.driver.call("cuCtxCreate_v2", ctypes.byref(self.context), ctypes.c_uint(4), self.device)  # waits block, not spin
        self.blocks = 8 * self.attribute(16)  # of each multiprocessor
        for name in kernels:
            self.load(name, PTX[name][0].encode("ascii"))
        self.begin(kernels)

    def close(self) -> None:
        super().close()
        if self.context:
            self.driver.call("cuCtxDestroy_v2", self.context)
            self.context = ctypes.c_void_p()


# --- HIP --------------------------------------------------------------------------------------------------------------------

HIP_NAMES = ("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "/opt/rocm/lib/libamdhip64.so")
RTC_NAMES = ("libhiprtc.so.7", "libhiprtc.so.6", "libhiprtc.so.5", "/opt/rocm/lib/libhiprtc.so")
RTC_WITHIN = "libamdhip64.so.5"  # of Debian: that version has hiprtc's calls as well
LEAST_HIP = 50000000  # numbers of attributes were others before 5.0
HIP_CODES = {
    1: "invalid value",
    OUT_OF_MEMORY: "out of memory",
    3: "HIP is not initialised",
    98: "invalid kernel",
    100: "no such device (hipErrorNoDevice)",
    101: "invalid device",
    209: "no kernel for this chip",
    214: "uncorrectable ECC error",
    700: "illegal address",
    719: "launch failure",
    999: "unknown error",
}
RTC_CODES = {2: "out of memory", 5: "invalid option", 6: "the kernel cannot be compiled", 11: "internal error"}
HIP_FMA = """extern "C" __attribute__((global)) void burn(float *out, unsigned rounds) {
  float a = (float)__builtin_amdgcn_workitem_id_x(), b = 1.0f, c = 2.0f, d = 3.0f;
  for (unsigned n = 0; n < rounds; n++) {
STEPS  }
  if (a + b + c + d == -100000.0f) *out = a;
}
""".replace("STEPS", "".join("    %s = __builtin_fmaf(%s, 0.999f, 0.001f);\n" % (n, n) for n in "abcd") * 8)
HIP_TENSOR = """typedef _Float16 halves __attribute__((ext_vector_type(HALVES)));
typedef float floats __attribute__((ext_vector_type(FLOATS)));
extern "C" __attribute__((global)) void burn(float *out, unsigned rounds) {
  halves a = (halves)((_Float16)0.0625f);
  floats b = (floats)(0.0f), c = (floats)(1.0f);
  for (unsigned n = 0; n < rounds; n++) {
STEPS  }
  float sum = 0.0f;
  for (int n = 0; n < FLOATS; n++) sum += b[n] + c[n];
  if (sum == -100000.0f) *out = sum;
}
"""
MFMA = (4, 16, "__builtin_amdgcn_mfma_f32_32x32x8f16(a, a, %s, 0, 0, 0)")  # halves and floats a thread has, and the instruction
WMMA = (16, 8, "__builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a, a, %s)")
MATRIX = {"gfx908": MFMA, "gfx90a": MFMA, "gfx942": MFMA, "gfx1100": WMMA, "gfx1101": WMMA, "gfx1102": WMMA}
AMD_NAME = r"(GPU-[0-9a-f]{16}|PCI-[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])$"  # NVML's are longer
HIP_COUNTED = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES")


def hip_source(kernel: str, chip: str) -> str:
    """HIP C, with builtins of the compiler alone: what HIP's own header adds differs between versions. Empty: that chip has no such kernel."""
    if kernel == "fma":
        return HIP_FMA
    if chip not in MATRIX:
        return ""
    halves, floats, step = MATRIX[chip]
    steps = "".join("    %s = %s;\n" % (name, step % name) for name in "bc") * 4
    return HIP_TENSOR.replace("HALVES", str(halves)).replace("FLOATS", str(floats)).replace("STEPS", steps)


def hiprtc() -> Library:
    """The compiler of HIP's runtime. Raises Refused."""
    try:
        return Library("libhiprtc.so", RTC_CODES, RTC_NAMES)
    except Refused:
        with suppress(Refused):
            found = Library(RTC_WITHIN, RTC_CODES)
            if found.has("hiprtcCreateProgram"):
                return found
        raise


class Hip(Gpu):
    """One GPU of AMD's, by the HIP runtime; its kernels are compiled by hiprtc, for the chip that the kernel's driver names."""

    call: ClassVar[dict[str, str]] = {
        "load": "hipModuleLoadData",
        "function": "hipModuleGetFunction",
        "launch": "hipModuleLaunchKernel",
        "event": "hipEventCreateWithFlags",
        "record": "hipEventRecord",
        "query": "hipEventQuery",
        "elapsed": "hipEventElapsedTime",
        "forget": "hipEventDestroy",
        "memory": "hipMemGetInfo",
        "allocate": "hipMalloc",
        "free": "hipFree",
    }

    def __init__(self, kfd: Kfd, gpu: AmdGpu) -> None:
        super().__init__(gpu.uuid)
        self.kfd, self.gpu = kfd, gpu
        for name in HIP_COUNTED:  # it is found by its address; read when the library is loaded
            os.environ.pop(name, None)
        if gpu.uuid.startswith("GPU-"):
            os.environ["ROCR_VISIBLE_DEVICES"] = gpu.uuid  # so that nothing is opened on the others
        self.driver = Library("libamdhip64.so", HIP_CODES, HIP_NAMES)
        self.hardware = "simulated" if self.driver.simulated else "real"
        self.device, self.opened = ctypes.c_int(-1), False
        self.driver.call("hipInit", ctypes.c_uint(0))
        if self.number("hipRuntimeGetVersion") < LEAST_HIP:
            raise Refused("this HIP runtime is older than 5.0, which nothing here knows")
        places = {self.place(index): index for index in range(self.number("hipGetDeviceCount"))}
        if gpu.pci not in places:
            raise Refused("HIP does not give %s at %s; it has %s" % (gpu.uuid, gpu.pci, ", ".join(places) or "no device"))
        self.driver.call("hipDeviceGet", ctypes.byref(self.device), ctypes.c_int(places[gpu.pci]))
        self.refuse_another()

    def number(self, function: str, *after: Any) -> int:
        found = ctypes.c_int()
        self.driver.call(function, ctypes.byref(found), *after)
        return found.value

    def place(self, index: int) -> str:
        """The PCI address of the device that HIP counts so."""
        found = ctypes.create_string_buffer(64)
        self.driver.call("hipDeviceGetPCIBusId", found, ctypes.c_int(len(found)), ctypes.c_int(index))
        return found.value.decode("ascii", "replace").lower()

    def refuse_another(self) -> None:
        """HIP's UUID is the 16 digits of the kernel's unique_id as text, where it has one."""
        found = (ctypes.c_ubyte * 16)()
        if self.driver.has("hipDeviceGetUuid"):  # from 5.1 on
            self.driver.call("hipDeviceGetUuid", found, self.device)
        told = bytes(found).decode("latin-1").lower()
        if self.uuid.startswith("GPU-") and re.match(r"[0-9a-f]{16}$", told) and self.uuid != "GPU-" + told:
            raise Refused("HIP gives device GPU-%s where %s was asked for" % (told, self.uuid))

    def on_host_memory(self) -> bool:
        """hipDeviceAttributeIntegrated, or the kernel counts it together with the machine's own processor."""
        return self.gpu.with_processor or bool(self.number("hipDeviceGetAttribute", ctypes.c_int(16), self.device))

    def kernels(self, wanted: str) -> list[str]:
        """Of `fma` and `tensor` those that are wanted and that this chip has. Raises Refused where that is none."""
        found = [name for name in ("fma", "tensor") if wanted in ("auto", name) and hip_source(name, self.gpu.chip)]
        if not found:
            raise Refused("%s is a %s, and there is no kernel of kind %s for it" % (self.uuid, self.gpu.chip, wanted))
        hiprtc()  # refused while nothing has begun
        return found

    def open(self, kernels: list[str]) -> None:
        self.driver.call("hipSetDevice", self.device)
        self.opened, self.blocks = True, 8 * max(1, self.gpu.units)
        for name in kernels:
            self.load(name, self.compiled(hip_source(name, self.gpu.chip)))
        self.begin(kernels)

    def compiled(self, source: str) -> bytes:
        """Code for this chip, and for no other."""
        compiler, program, size = hiprtc(), ctypes.c_void_p(), ctypes.c_size_t()
        named = (ctypes.c_char_p(source.encode("ascii")), b"burn.hip", ctypes.c_int(0), None, None)
        compiler.call("hiprtcCreateProgram", ctypes.byref(program), *named)
        options = (ctypes.c_char_p * 1)(b"--offload-arch=" + self.gpu.chip.encode("ascii"))
        code = compiler.code("hiprtcCompileProgram", program, ctypes.c_int(1), options)
        if code:
            compiler.call("hiprtcGetProgramLogSize", program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value + 1)
            compiler.call("hiprtcGetProgramLog", program, log)
            why = log.value.decode("utf-8", "replace").strip()[:300]
            raise Failed("hiprtcCompileProgram: %s: %s" % (RTC_CODES.get(code, "error %d" % code), why))
        compiler.call("hiprtcGetCodeSize", program, ctypes.byref(size))
        image = ctypes.create_string_buffer(size.value)
        compiler.call("hiprtcGetCode", program, image)
        compiler.call("hiprtcDestroyProgram", ctypes.byref(program))
        return image.raw

    def free_bytes(self) -> tuple[int, int]:
        """What both HIP and the kernel call free (older HIP counts only its own process), and in all."""
        total, used = self.kfd.memory(self.gpu)
        return min(super().free_bytes()[0], total - used), total

    def close(self) -> None:
        super().close()
        if self.opened:
            self.opened = False
            self.driver.call("hipDeviceReset")


# --- OpenCL -----------------------------------------------------------------------------------------------------------------

CL_CODES = {
    -1: "device not found",
    -2: "device not available",
    -4: "CL_MEM_OBJECT_ALLOCATION_FAILURE",
    -5: "CL_OUT_OF_RESOURCES",
    -6: "CL_OUT_OF_HOST_MEMORY",
    -11: "the kernel cannot be built",
    -61: "CL_INVALID_BUFFER_SIZE",
    -1001: "no OpenCL platform is installed (no ICD)",
}
NO_ROOM = {-4, -5, -6}
CPU, GPU = 2, 4  # of CL_DEVICE_TYPE
BURN = b"""__kernel void burn(__global float *out, uint rounds) {
  float a = get_global_id(0), b = 1.0f, c = 2.0f, d = 3.0f;
  for (uint n = 0; n < rounds; n++) {
    a = fma(a, 0.999f, 0.001f); b = fma(b, 0.999f, 0.001f); c = fma(c, 0.999f, 0.001f); d = fma(d, 0.999f, 0.001f);
  }
  if (a + b + c + d == -100000.0f) out[0] = a;
}"""


class OpenClDevices:
    """All OpenCL devices here, in the order of their platforms."""

    def __init__(self) -> None:
        self.library = Library("libOpenCL.so.1", CL_CODES)
        self.hardware = "simulated" if self.library.simulated else ""
        for function in (
            "clCreateContext",
            "clCreateCommandQueue",
            "clCreateBuffer",
            "clCreateProgramWithSource",
            "clCreateKernel",
        ):
            if self.library.has(function):
                getattr(self.library.library, function).restype = ctypes.c_void_p
        self.handles: list[int] = []
        for platform in self.listed("clGetPlatformIDs", -1001):
            self.handles += self.listed("clGetDeviceIDs", -1, ctypes.c_void_p(platform), ctypes.c_uint64(0xFFFFFFFF))

    def listed(self, function: str, none: int, *first: Any) -> list[int]:
        count = ctypes.c_uint()
        code = self.library.code(function, *first, ctypes.c_uint(0), None, ctypes.byref(count))
        if code == none:
            return []
        self.library.check(function, code)
        found = (ctypes.c_void_p * count.value)()
        self.library.call(function, *first, count, found, None)
        return [int(handle or 0) for handle in found]

    def raw(self, handle: int, what: int) -> bytes:
        size, found = ctypes.c_size_t(), ctypes.create_string_buffer(8192)
        asked = (ctypes.c_void_p(handle), ctypes.c_uint(what), ctypes.c_size_t(len(found)), found, ctypes.byref(size))
        self.library.call("clGetDeviceInfo", *asked)
        return found.raw[: size.value]

    def number(self, handle: int, what: int) -> int:
        return int.from_bytes(self.raw(handle, what), sys.byteorder)

    def kind(self, handle: int) -> str:
        kind = self.number(handle, 0x1000)
        return "cpu" if kind & CPU else "gpu" if kind & GPU else "other"

    def place(self, handle: int) -> str | None:
        """Its PCI address (cl_khr_pci_bus_info); None where the driver does not tell."""
        with suppress(Failed):
            found = self.raw(handle, 0x410F)
            return "%04x:%02x:%02x.%x" % tuple(int.from_bytes(found[n : n + 4], sys.byteorder) for n in (0, 4, 8, 12))
        return None

    def uuid(self, handle: int) -> str | None:
        """As cl_khr_device_uuid has it."""
        with suppress(Failed):
            return self.raw(handle, 0x106A).hex()
        return None

    def seen(self) -> list[Record]:
        """All of them; of GPUs also where they are, what the kernel tells there, and who has them open."""
        return [self.one(index, handle) for index, handle in enumerate(self.handles)]

    def one(self, index: int, handle: int) -> Record:
        found: Record = {
            "device": "opencl:%d" % index,
            "name": self.raw(handle, 0x102B).rstrip(b"\0").decode("utf-8", "replace"),
            "kind": self.kind(handle),
            "total_bytes": self.number(handle, 0x101F),
            "on_host_memory": bool(self.number(handle, 0x1035)),
            "hardware": self.hardware or "real",
        }
        if found["kind"] != "gpu":
            return found
        found.update(pci=self.place(handle), uuid=self.uuid(handle), vendor=self.number(handle, 0x1001))
        found.update(temperature_c=None, power_w=None, processes=[])
        if found["pci"]:
            sensor = KernelSensor(found["pci"])
            found.update(processes=clients(found["pci"]), power_w=sensor.power_w())
            with suppress(Failed):
                found["temperature_c"] = sensor.temperature_c()
        return found


class OpenCl:
    """One OpenCL device, with the same verbs as Gpu."""

    def __init__(self, name: str) -> None:
        found = OpenClDevices()
        index = int(name.partition(":")[2])
        if index >= len(found.handles):
            raise Refused("%s is not there: OpenCL has %d devices here" % (name, len(found.handles)))
        self.devices, self.library, self.name, self.handle = found, found.library, name, found.handles[index]
        kind = found.kind(self.handle)
        self.hardware = found.hardware or ("opencl-cpu" if kind == "cpu" else "real")
        self.memory: dict[int, int] = {}
        self.context = self.queue = 0
        self.pci = found.place(self.handle) if kind == "gpu" else None
        self.total = found.number(self.handle, 0x101F)
        self.most = found.number(self.handle, 0x1010)  # one allocation
        # CL_MEM_READ_WRITE; where the device's memory is the machine's, CL_MEM_ALLOC_HOST_PTR as well: PoCL then allocates at once and
        # says when it cannot, where without it the first use of a buffer that had no room ends the process.
        self.flags = ctypes.c_uint64(1 | 16 if found.number(self.handle, 0x1035) else 1)

    def made(self, function: str, *arguments: Any) -> int:
        """A new object of the library's; the last argument of all these calls is where the code goes."""
        code = ctypes.c_int()
        found = getattr(self.library.library, function)(*arguments, ctypes.byref(code))
        self.library.check(function, code.value)
        return int(found or 0)

    def on_host_memory(self) -> bool:
        return bool(self.devices.number(self.handle, 0x1035))

    def kernels(self, wanted: str) -> list[str]:
        if wanted == "tensor":
            raise Refused("OpenCL has no kernel of kind tensor; CUDA and HIP have, for chips with tensor or matrix cores")
        return ["fma"]

    def open(self, kernels: list[str]) -> None:
        device = (ctypes.c_void_p * 1)(self.handle)
        self.context = self.made("clCreateContext", None, ctypes.c_uint(1), device, None, None)
        context = ctypes.c_void_p(self.context)
        self.queue = self.made("clCreateCommandQueue", context, ctypes.c_void_p(self.handle), ctypes.c_uint64(2))  # with times
        if kernels:
            source = (ctypes.c_char_p * 1)(BURN)
            program = ctypes.c_void_p(self.made("clCreateProgramWithSource", context, ctypes.c_uint(1), source, None))
            self.library.call("clBuildProgram", program, ctypes.c_uint(1), device, None, None, None)
            self.kernel = ctypes.c_void_p(self.made("clCreateKernel", program, b"burn"))
            output = ctypes.c_void_p(self.allocate(4096))
            self.library.call("clSetKernelArg", self.kernel, ctypes.c_uint(0), ctypes.c_size_t(8), ctypes.byref(output))
            self.items = 8 * THREADS * self.devices.number(self.handle, 0x1002)

    def launch(self, kernel: str, rounds: int) -> Any:
        del kernel  # there is one
        number, event, queue = ctypes.c_uint(rounds), ctypes.c_void_p(), ctypes.c_void_p(self.queue)
        self.library.call("clSetKernelArg", self.kernel, ctypes.c_uint(1), ctypes.c_size_t(4), ctypes.byref(number))
        size, group = ctypes.c_size_t(self.items), ctypes.c_size_t(THREADS)
        asked = (queue, self.kernel, ctypes.c_uint(1), None, ctypes.byref(size), ctypes.byref(group), ctypes.c_uint(0), None)
        self.library.call("clEnqueueNDRangeKernel", *asked, ctypes.byref(event))
        self.library.call("clFlush", queue)
        return event

    def busy_s(self, event: Any) -> float | None:
        status = ctypes.c_int()
        self.library.call("clGetEventInfo", event, ctypes.c_uint(0x11D3), ctypes.c_size_t(4), ctypes.byref(status), None)
        if status.value > 0:
            return None
        self.library.check("the kernel's event", status.value)
        times = [ctypes.c_uint64(), ctypes.c_uint64()]
        for offset, moment in enumerate(times):  # start and end on the device
            asked = (event, ctypes.c_uint(0x1282 + offset), ctypes.c_size_t(8), ctypes.byref(moment), None)
            self.library.call("clGetEventProfilingInfo", *asked)
        self.library.call("clReleaseEvent", event)
        return float(times[1].value - times[0].value) / 1e9

    def free_bytes(self) -> tuple[int, int]:
        """OpenCL does not tell what others have: what is in all, without what is held here, and on a GPU without what the kernel tells.

        A driver that is asked for more than there is may move what others have there to the machine's memory.
        """
        told = {client["pid"]: client["bytes"] or 0 for client in clients(self.pci)} if self.pci else {}
        own = max(sum(self.memory.values()), told.pop(os.getpid(), 0))  # the context has some as well
        return self.total - own - sum(told.values()), self.total

    def allocate(self, size: int) -> int:
        """A handle; 0 when there is no room. It is written to, since many drivers back a buffer no sooner."""
        if size > self.most:
            return 0
        code, queue = ctypes.c_int(), ctypes.c_void_p(self.queue)
        asked = (ctypes.c_void_p(self.context), self.flags, ctypes.c_size_t(size), None, ctypes.byref(code))
        found = int(self.library.library.clCreateBuffer(*asked) or 0)
        if code.value in NO_ROOM:
            return 0
        self.library.check("clCreateBuffer", code.value)
        self.memory[found], one = size, ctypes.c_uint(1)
        filled = (queue, ctypes.c_void_p(found), ctypes.byref(one), ctypes.c_size_t(4), ctypes.c_size_t(0), ctypes.c_size_t(size))
        code.value = self.library.code("clEnqueueFillBuffer", *filled, ctypes.c_uint(0), None, None)
        code.value = code.value or self.library.code("clFinish", queue)
        if code.value in NO_ROOM:
            self.release(found)
            return 0
        self.library.check("clEnqueueFillBuffer", code.value)
        return found

    def refused_bytes(self, size: int) -> str:
        """With which code an allocation of so much more fails, in pieces where one cannot be that large; empty: it does not.

        Only the first bytes of each piece are written to, and all of it is given back at once.
        """
        code, pieces, left, queue = ctypes.c_int(), [], size, ctypes.c_void_p(self.queue)
        while left > 0 and not code.value:
            piece, one = min(left, self.most), ctypes.c_uint(1)
            asked = (ctypes.c_void_p(self.context), self.flags, ctypes.c_size_t(piece), None, ctypes.byref(code))
            pieces.append(self.library.library.clCreateBuffer(*asked))
            if not code.value:
                filled = (queue, ctypes.c_void_p(pieces[-1]), ctypes.byref(one), *map(ctypes.c_size_t, (4, 0, 4)))
                code.value = self.library.code("clEnqueueFillBuffer", *filled, ctypes.c_uint(0), None, None)
                code.value = code.value or self.library.code("clFinish", queue)
            left -= piece
        for found in pieces:
            if found:
                self.library.call("clReleaseMemObject", ctypes.c_void_p(found))
        return CL_CODES.get(code.value, "error %d" % code.value) if code.value else ""

    def release(self, handle: int) -> None:
        del self.memory[handle]
        self.library.call("clReleaseMemObject", ctypes.c_void_p(handle))

    def close(self) -> None:
        for handle in list(self.memory):
            self.release(handle)
        if self.queue:
            self.library.call("clReleaseCommandQueue", ctypes.c_void_p(self.queue))
        if self.context:
            self.library.call("clReleaseContext", ctypes.c_void_p(self.context))
        self.queue = self.context = 0


# --- holding: as in agent.py ------------------------------------------------------------------------------------------------


class Ending:
    """What ends the fault: a closed standard input, a lapsed lease, the deadline, a signal."""

    def __init__(self, deadline_s: float, lease_s: float | None) -> None:
        now = time.monotonic()
        self.detached, self.inputs = False, [0]
        self.deadline, self.lease_s = now + deadline_s, lease_s
        self.lease = now + lease_s if lease_s else None
        self.signals, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)

    def renew(self) -> None:
        if self.lease_s:
            self.lease = time.monotonic() + self.lease_s

    def wait(self, seconds: float) -> str:
        """Why the fault must end; empty when `seconds` have passed without a reason."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if now >= self.deadline:
                return "deadline"
            if self.lease is not None and now >= self.lease:
                return "lease lapsed"
            limits = [limit for limit in (self.deadline, self.lease, until) if limit is not None]
            ready = select.select([*self.inputs, self.signals], [], [], max(0.0, min(limits) - now))[0]
            if self.signals in ready:
                number = os.read(self.signals, 1)[0]
                if number != signal.SIGUSR1:
                    return "signal %d" % number
                self.renew()
            elif 0 in ready:
                said = os.read(0, 4096)
                if not said and not self.detached:
                    return "standard input closed"
                if b"renew" in said:
                    self.renew()
                self.inputs = [0] if said else []
            elif time.monotonic() >= until:
                return ""


class Pod:
    """The pod that a fault is beside. Its pause container stays while the others of it start again, so it has a process until it is gone."""

    def __init__(self, uid: str) -> None:
        self.uid, self.next = uid, 0.0
        self.names = (uid, uid.replace("-", "_"))  # as the kubelet's drivers cgroupfs and systemd name a pod's control group
        self.known = 0  # the pid of one of its processes

    def has(self, pid: int) -> bool:
        path = text_of("/proc/%d/cgroup" % pid) or ""
        return any(name in path for name in self.names)

    def there(self) -> bool:
        """Whether it has a process that is seen from here."""
        if not self.has(self.known):
            self.known = next(filter(self.has, everybody()), 0)
        return self.known > 0

    def look(self) -> None:
        """Raises Ended."""
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + WATCH_EVERY_S
            if not self.there():
                raise Ended("pod %s, which this was beside, is gone" % self.uid)


class Held:
    """The undo record on its way to the disk, what was measured beside it, and what may cut a slow `apply` short."""

    def __init__(self, path: str, body: Record, ending: Ending) -> None:
        self.path, self.body, self.ending = path, body, ending
        self.device: Any = None
        self.burner: Any = None
        self.watch: Watch | None = None
        self.pod: Pod | None = None
        self.seen: Record = {"agent": body["agent"], "stopped": ""}

    def keep(self) -> None:
        """Bring the record to the disk: the file is whole, or as it was before."""
        with open(self.path + ".new", "w", encoding="utf-8") as new:
            json.dump(self.body, new)
            new.flush()
            os.fsync(new.fileno())
        os.replace(self.path + ".new", self.path)
        folder = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def show(self, **facts: Any) -> None:
        """What was measured, for whoever looks; a disk that is full ends no fault."""
        self.seen.update(facts, t=time.monotonic())
        with suppress(OSError):
            with open(self.path + ".seen.new", "w", encoding="utf-8") as new:
                json.dump(self.seen, new)
            os.replace(self.path + ".seen.new", self.path + ".seen")

    def go_on(self, seconds: float = 0.0) -> None:
        reason = self.ending.wait(seconds)
        if reason:
            raise Ended(reason)
        if self.pod:
            self.pod.look()
        if self.watch:
            self.watch.look()


class NvmlSensor:
    """Temperature and power of a GPU, or of the one that a slice is cut from, as NVML tells them."""

    def __init__(self, uuid: str) -> None:
        self.nvml = Nvml()
        self.gpu = self.nvml.whole(self.nvml.handle(uuid))

    def temperature_c(self) -> int:
        """Raises Failed."""
        return self.nvml.number("nvmlDeviceGetTemperature", self.gpu, 0)

    def watts(self, function: str) -> float | None:
        found = self.nvml.perhaps(function, self.gpu)
        return None if found is None else found / 1000.0

    def power_w(self) -> float | None:
        return self.watts("nvmlDeviceGetPowerUsage")

    def limit_w(self) -> float | None:
        return self.watts("nvmlDeviceGetEnforcedPowerLimit")


class Watch:
    """Temperature and power of the device, as NVML or the kernel tells them."""

    def __init__(self, sensor: NvmlSensor | KernelSensor, name: str, hottest_c: int, most_w: float | None) -> None:
        self.sensor, self.hottest_c, self.next, self.over = sensor, hottest_c, 0.0, 0
        try:
            temperature = sensor.temperature_c()
        except Failed as problem:
            raise Refused(
                "nobody tells how hot %s is, so nothing could stop the fault in time: %s" % (name, problem)
            ) from problem
        if temperature >= hottest_c:
            raise Refused("%s has %d C already, and %d are the limit" % (name, temperature, hottest_c))
        limit, power = sensor.limit_w(), sensor.power_w()
        if power is None and most_w is not None:
            raise Refused("nobody tells how much power %s takes, so nothing could stop the fault at %g W" % (name, most_w))
        self.most_w = most_w if most_w is not None or limit is None or power is None else 1.1 * limit

    def look(self) -> None:
        """Raises Beyond."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + WATCH_EVERY_S
        try:
            temperature = self.sensor.temperature_c()
        except Failed as problem:
            raise Beyond("nobody tells the temperature any more: %s" % problem) from problem
        if temperature > self.hottest_c:
            raise Beyond("%d C is beyond the limit of %d C" % (temperature, self.hottest_c))
        if self.most_w is None:
            return
        power = self.sensor.power_w()
        if power is None:
            raise Beyond("nobody tells the power any more, and %.0f W are the limit" % self.most_w)
        self.over = self.over + 1 if power > self.most_w else 0
        if self.over > 1:  # one reading may be a spike
            raise Beyond("%.0f W is beyond the limit of %.0f W" % (power, self.most_w))


class Verb(NamedTuple):
    """`prepare` looks and refuses, and returns what `undo` needs; `apply` does it and returns facts, `go_on` keeps it up until it raises
    Ended or Beyond; `undo` works from the record alone and is idempotent, and may take `more_s` longer than UNDO_S.
    """

    prepare: Callable[[Record, Held], Record]
    apply: Callable[[Record, Held], Record]
    go_on: Callable[[Record, Held], None]
    undo: Callable[[Record], None]
    more_s: float = 0.0


def nothing(record: Record) -> None:
    """To be undone: the driver takes back all that a process had."""
    del record


def emit(event: str, **facts: Any) -> None:
    with suppress(OSError):  # whoever listened may be dead; the fault is undone all the same
        os.write(1, (json.dumps({"event": event, **facts}) + "\n").encode("utf-8"))


def begin(name: str, request: Record, ending: Ending) -> Held:
    """Look, refuse or bring the undo record to the disk; nothing is taken yet."""
    path = request["state"]
    if os.path.exists(path):
        raise Refused("fault %s is already held here; its record is %s" % (request["fault"], path))
    body = {
        "fault": request["fault"],
        "verb": name,
        "agent": identity(os.getpid()),
        "boot": boot(),
        "undo_s": UNDO_S + VERBS[name].more_s,
        "record": {},
    }
    held = Held(path, body, ending)
    if request.get("beside_pod"):
        held.pod = Pod(request["beside_pod"])
        if not held.pod.there():
            raise Refused("no process of pod %s is seen here by its control group, so nobody would notice its end" % held.pod.uid)
    try:
        body["record"] = VERBS[name].prepare(request, held)
    except Failed as problem:
        raise Refused(str(problem)) from problem
    held.keep()
    return held


def last_resort(seconds: float) -> None:
    """A driver that hangs in a call hears nothing; at that moment the kernel ends this process, and takes back all that it holds.

    No thread of ours could: a library that hangs while it is loaded keeps the interpreter.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whatever was inherited
    signal.setitimer(signal.ITIMER_REAL, seconds)


def hold(name: str, request: Record) -> int:
    """Do it, keep it up until an ending, let go. Returns the exit status."""
    ending = Ending(request["deadline_s"], request.get("lease_s"))
    undo_s = UNDO_S + VERBS[name].more_s
    last_resort(request["deadline_s"] + undo_s)
    try:
        held = begin(name, request, ending)
    except (Refused, OSError) as problem:
        emit("refused", why=str(problem))
        return 3
    reason = why = ""
    try:
        emit("effective", **VERBS[name].apply(request, held))
        ending.detached = bool(request.get("detached"))  # not before: whoever gave up waiting for it must not get it later
        reason = kept_up(name, request, held)
    except Ended as ended:
        reason = str(ended)
    except Exception as problem:  # noqa: BLE001 - however the fault failed, what there is of it must be undone
        why = "%s: %s" % (type(problem).__name__, problem)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # nothing interrupts the undo but SIGKILL, and then the record is still there
    last_resort(undo_s)
    let_go(held)
    return put_back(held.path, held.body, reason, why)


def kept_up(name: str, request: Record, held: Held) -> str:
    """Until it must end. What goes wrong on the way is told at once in what is seen, and the device let go."""
    try:
        VERBS[name].go_on(request, held)
    except Ended:
        raise
    except Exception as problem:  # noqa: BLE001 - it is told, and what there is of it undone
        held.watch = None
        held.show(stopped=str(problem))
        if not let_go(held):
            os._exit(1)  # the record and what was seen stay, for whoever undoes it and asks why
    while True:
        held.go_on(60.0)


def let_go(held: Held) -> bool:
    """Whether the driver took all of it back; what it did not it does when this process ends."""
    device, held.device = held.device, None
    try:
        if device:
            device.close()
    except Failed:
        return False
    return True


def put_back(path: str, body: Record, reason: str, why: str = "") -> int:
    """Undo from the record, remove it and what lies beside it, say so. `why`: the fault had failed before."""
    try:
        VERBS[body["verb"]].undo(body["record"])
    except Foreign as problem:
        emit("foreign", why=str(problem))
        return 4
    except (Refused, Failed) as problem:
        emit("failed", why="could not be undone: %s%s" % (problem, why and "; and before that: " + why))
        return 1
    for name in (path, path + ".seen", path + ".seen.new", path + ".new"):
        with suppress(FileNotFoundError):
            os.remove(name)
    if why:
        emit("failed", why=why)
        return 1
    emit("undone", reason=reason)
    return 0


def undo(path: str) -> int:
    """End the agent of that record if it lives: with it all is gone. A record that is not there is success."""
    last_resort(UNDO_LIMIT_S)
    body = load(path)
    if body:
        last_resort(UNDO_LIMIT_S + 3 * VERBS[body["verb"]].more_s)
    if body and body["boot"] == boot() and pid_of(body["agent"]):
        send(body["agent"], signal.SIGTERM)
        send(body["agent"], signal.SIGCONT)  # one that somebody stopped must hear it too
        if not wait_gone(body["agent"], body["undo_s"]):
            send(body["agent"], signal.SIGKILL)
            if not wait_gone(body["agent"], UNDO_S):
                emit("failed", why="could not be undone: %s does not end; the driver has hung" % body["agent"])
                return 1
    try:
        with open(path, encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # no two undos at once, and none beside a dcgmi that the agent left (tell_xid)
            body = load(path)
            if body:
                return put_back(path, body, "undo")
    except FileNotFoundError:
        pass
    emit("undone", reason="nothing was left")
    return 0


def load(path: str) -> Record:
    try:
        with open(path, encoding="utf-8") as text:
            body: Record = json.load(text)
            return body
    except FileNotFoundError:
        return {}


def opened(request: Record, held: Held) -> None:
    """The device that was asked for, and who watches it. Raises Refused with what is missing."""
    name = request["device"]
    if re.match(r"opencl:\d+$", name):
        held.device = OpenCl(name)
        kind = held.device.devices.kind(held.device.handle)
        if kind == "gpu" and held.device.pci:
            held.watch = Watch(KernelSensor(held.device.pci), name, request["hottest_c"], request["most_w"])
        elif kind != "cpu":
            raise Refused("%s is a %s that does not tell where it is: nothing here tells whose it is or how hot" % (name, kind))
    elif re.match(AMD_NAME, name):
        kfd = Kfd()
        gpu = kfd.gpu(name)
        held.watch = Watch(KernelSensor(gpu.pci), name, request["hottest_c"], request["most_w"])
        held.device = Hip(kfd, gpu)
    elif re.match(r"(GPU|MIG)-[0-9a-f-]+$", name):
        held.watch = Watch(NvmlSensor(name), name, request["hottest_c"], request["most_w"])
        held.device = Cuda(name)
    else:
        raise Refused("%s is neither opencl:NUMBER nor the UUID of a GPU or of a slice of one" % name)


# --- saturate-gpu: duty, kernels --------------------------------------------------------------------------------------------


def waited_s() -> float:
    """How long this thread was ready to run and had no core, by the kernel (Linux: Documentation/scheduler/sched-stats.rst); 0: not told."""
    try:
        with open("/proc/self/schedstat", encoding="ascii") as text:
            return int(text.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Burner:
    """Keeps one device at work for a part of the time: what is owed grows with time and shrinks with what the events say."""

    def __init__(self, held: Held, kernels: list[str], duty: float) -> None:
        self.held, self.device, self.kernels, self.duty = held, held.device, kernels, duty
        self.rounds = dict.fromkeys(kernels, 64)
        self.slices = dict.fromkeys(kernels, 0.0)
        self.flying: list[tuple[str, Any, float]] = []
        self.owed = self.busy = 0.0
        self.turn = 0
        self.marks: list[list[float]] = []

    def calibrate(self) -> None:
        """How many rounds take a slice: from few ones on, never more than four times as many at once."""
        for kernel in self.kernels:
            while True:
                self.launch(kernel)
                took = max(self.finished(), 1e-7)
                if took >= SLICE_S / 2 or self.rounds[kernel] >= 1 << 28:
                    self.slices[kernel] = took
                    break
                self.rounds[kernel] = int(self.rounds[kernel] * min(4.0, max(1.25, SLICE_S / took)))

    def launch(self, kernel: str) -> None:
        self.flying.append((kernel, self.device.launch(kernel, self.rounds[kernel]), time.monotonic() + STUCK_S))

    def finished(self) -> float:
        """How long the oldest kernel in the queue took, once it has ended."""
        while True:
            took = self.landed()
            if took is not None:
                return took
            self.held.go_on(0.0005)

    def landed(self) -> float | None:
        kernel, event, limit = self.flying[0]
        took: float | None = self.device.busy_s(event)
        if took is None and time.monotonic() > limit:
            raise Failed("the device has not finished a kernel of %d ms within %g s" % (SLICE_S * 1000, STUCK_S))
        if took is not None:
            self.flying.pop(0)
            # A kernel that the victim's work made longer counts as it was; the next ones follow slowly.
            self.slices[kernel] += 0.2 * (took - self.slices[kernel])
            if self.slices[kernel] > 2 * SLICE_S:
                self.rounds[kernel] = max(1, int(self.rounds[kernel] * SLICE_S / self.slices[kernel]))
                self.slices[kernel] = SLICE_S
        return took

    def run(self) -> None:
        last = time.monotonic()
        while True:
            now = time.monotonic()
            self.owed, last = min(MOST_OWED_S, self.owed + self.duty * (now - last)), now
            while self.flying:
                took = self.landed()
                if took is None:
                    break
                self.owed, self.busy = self.owed - took, self.busy + took
            ahead = sum(self.slices[kernel] for kernel, _, _ in self.flying)
            kernel = self.kernels[self.turn % len(self.kernels)]
            if len(self.flying) < IN_FLIGHT and self.owed - ahead >= self.slices[kernel] / 2:
                self.launch(kernel)
                self.turn += 1
            self.mark(now)
            self.held.go_on(0.001)

    def mark(self, now: float) -> None:
        """Moment, device time in all, and what was waited for a core in all, every quarter of a second."""
        if not self.marks or now - self.marks[-1][0] >= SEEN_EVERY_S:
            self.marks = [mark for mark in self.marks if now - mark[0] <= SEEN_FOR_S] + [[now, self.busy, waited_s()]]
            self.held.show(marks=self.marks, kernels=self.turn)


def saturate_prepare(request: Record, held: Held) -> Record:
    if not 0 < request["duty"] <= 1:
        raise Refused("a duty of %s; it lies above 0 and at most 1" % request["duty"])
    opened(request, held)
    held.device.kernels(request["kernels"])
    return {}


def saturate_apply(request: Record, held: Held) -> Record:
    kernels = held.device.kernels(request["kernels"])
    held.device.open(kernels)
    burner = Burner(held, kernels, request["duty"])
    burner.calibrate()
    held.seen.update(hardware=held.device.hardware, device=request["device"], kinds=kernels)
    held.burner = burner
    burner.mark(time.monotonic())
    return {"device": request["device"], "hardware": held.device.hardware, "kernels": kernels, "rounds": burner.rounds}


def saturate_go_on(request: Record, held: Held) -> None:
    del request
    held.burner.run()


# --- fill-gpu: leave_bytes or leave_share -----------------------------------------------------------------------------------


def host_room() -> int:
    """Bytes of the machine's own memory that may be taken. Raises Refused where nobody tells."""
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as text:
        free = next(int(line.split()[1]) << 10 for line in text if line.startswith("MemAvailable:"))
        return free - max(HOST_RESERVE, int(free * HOST_RESERVE_SHARE))
    raise Refused("this system does not say how much memory is available, and the device uses the machine's own")


def left(request: Record, total: int) -> int:
    share = request.get("leave_share")
    return int(request["leave_bytes"]) if share is None else int(share * total)


def fill_prepare(request: Record, held: Held) -> Record:
    opened(request, held)
    if not held.device.on_host_memory():
        return {}
    if isinstance(held.device, Gpu):
        raise Refused("%s has no memory of its own but uses the machine's; memory-stress takes that" % request["device"])
    wanted, room = held.device.total - left(request, held.device.total), host_room()
    if wanted > room:
        raise Refused(
            "%s uses the machine's own memory: %d bytes would be taken, and %d can be, so that 10 %% and 512 MiB stay free"
            % (request["device"], wanted, max(0, room))
        )
    return {}


def take(request: Record, held: Held) -> None:
    """All that is free but what is to be left, from large pieces to small ones."""
    for chunk in CHUNKS:
        while True:
            held.go_on()
            free, total = held.device.free_bytes()
            if free - left(request, total) < chunk or not held.device.allocate(chunk):
                break


def show_held(request: Record, held: Held) -> None:
    free, total = held.device.free_bytes()
    leave = left(request, total)
    more = {"free_bytes": free} if isinstance(held.device, Gpu) else {}
    held.show(held_bytes=sum(held.device.memory.values()), total_bytes=total, leave_bytes=leave, **more)


def fill_apply(request: Record, held: Held) -> Record:
    held.device.open([])
    free, total = held.device.free_bytes()
    leave = left(request, total)
    if free - leave < CHUNKS[-1]:
        raise Failed("%d of %d bytes are free, and %d are to be left: there is nothing to take" % (free, total, leave))
    take(request, held)
    held.seen.update(hardware=held.device.hardware, device=request["device"])
    if isinstance(held.device, OpenCl):
        held.seen["next_bytes"] = leave + CHUNKS[0]
        held.seen["next_allocation"] = held.device.refused_bytes(leave + CHUNKS[0])
    show_held(request, held)
    return {"device": request["device"], "hardware": held.device.hardware, "bytes": held.seen["held_bytes"]}


def fill_go_on(request: Record, held: Held) -> None:
    while True:
        held.go_on(WATCH_EVERY_S)
        take(request, held)
        show_held(request, held)


# --- limit-gpu: limit_w -----------------------------------------------------------------------------------------------------


def limit_of(nvml: Nvml, handle: Any) -> int:
    """Milliwatts, as somebody set them or as they are by default."""
    return nvml.number("nvmlDeviceGetPowerManagementLimit", handle)


def limit_prepare(request: Record, held: Held) -> Record:
    del held  # nothing of the device is opened
    if not re.match(r"GPU-[0-9a-f-]+$", request["device"]):
        raise Refused("%s is no GPU of NVML's, and only such a one has a limit of power that can be set" % request["device"])
    nvml = Nvml()
    handle, wanted = nvml.handle(request["device"]), int(request["limit_w"] * 1000)
    lowest, highest = ctypes.c_uint(), ctypes.c_uint()
    range_ = (handle, ctypes.byref(lowest), ctypes.byref(highest))
    nvml.library.call("nvmlDeviceGetPowerManagementLimitConstraints", *range_)
    if not lowest.value <= wanted <= highest.value:
        allowed = (lowest.value / 1000, highest.value / 1000)
        raise Refused("%g W for %s; it takes %g to %g" % (request["limit_w"], request["device"], *allowed))
    return {"device": request["device"], "before_mw": limit_of(nvml, handle), "ours_mw": wanted, "settled": False}


def limit_apply(request: Record, held: Held) -> Record:
    nvml, record = Nvml(), held.body["record"]
    handle = nvml.handle(request["device"])
    nvml.library.call("nvmlDeviceSetPowerManagementLimit", handle, ctypes.c_uint(record["ours_mw"]))
    record.update(ours_mw=limit_of(nvml, handle), settled=True)  # a driver may round it, and what is rounded is still ours
    held.keep()
    held.show(hardware="simulated" if nvml.library.simulated else "real", device=request["device"])
    return {"device": request["device"], "limit_w": record["ours_mw"] / 1000}


def shown_on(request: Record, held: Held) -> None:
    del request
    while True:
        held.go_on(WATCH_EVERY_S)
        held.show()


def limit_undo(record: Record) -> None:
    """Of an agent that died before it had read back what the driver made of its limit (`settled`), any but the one before is its own."""
    nvml = Nvml()
    handle = nvml.handle(record["device"])
    now = limit_of(nvml, handle)
    if now == record["before_mw"]:
        return
    if record["settled"] and now != record["ours_mw"]:
        words = (record["device"], now / 1000, record["ours_mw"] / 1000)
        raise Foreign("%s has a limit of %g W, where %g had been set; it was left alone" % words)
    nvml.library.call("nvmlDeviceSetPowerManagementLimit", handle, ctypes.c_uint(record["before_mw"]))


# --- lose-gpu: controls -----------------------------------------------------------------------------------------------------

UNKNOWN = (
    999  # CUDA_ERROR_UNKNOWN, which programs got when their GPU fell off the bus (XID 79): github.com/wilicc/gpu-burn/issues/1
)
CONTROL = struct.Struct("@40sQII")  # cuda_shim.c's struct control


def until_of(content: bytes) -> int:
    """Until which moment of the monotonic clock, in nanoseconds, the GPU is lost by a control file; 0: it is not, also when that is over."""
    held, until, _, _ = CONTROL.unpack(content)
    there = held.rstrip(b"\0").decode("ascii", "replace") == boot() and until > time.monotonic() * 1e9
    return int(until) if there else 0


def control_of(path: str) -> int:
    """The same by its path. Raises Failed where it is none."""
    try:
        with open(path, "rb") as file:
            return until_of(file.read(CONTROL.size + 1))  # of another size it is somebody's, and the shim leaves it alone as well
    except (OSError, struct.error) as problem:
        raise Failed("%s is no control file of the CUDA shim: %s" % (path, problem)) from problem


def set_control(path: str, until_ns: int) -> None:
    """In place, since processes have it mapped; the moment last, since it is what makes the rest hold."""
    try:
        with open(path, "r+b", buffering=0) as file:
            file.write(CONTROL.pack(boot().encode("ascii"), 0, UNKNOWN, 0))
            file.seek(40)
            file.write(struct.pack("@Q", until_ns))
    except OSError as problem:
        raise Failed("%s, the control file of the CUDA shim, cannot be written: %s" % (path, problem)) from problem


def lose_prepare(request: Record, held: Held) -> Record:
    del held  # nothing of the device is opened
    for path in request["controls"]:
        if control_of(path):
            raise Refused("the CUDA calls of %s fail already, by somebody else" % path)
        if not os.access(path, os.W_OK):
            raise Refused("%s, by which the CUDA shim is told, cannot be written to by this user" % path)
    return {"controls": request["controls"], "until_ns": int((time.monotonic() + request["deadline_s"]) * 1e9)}


def lose_apply(request: Record, held: Held) -> Record:
    for path in request["controls"]:
        set_control(path, held.body["record"]["until_ns"])
    held.show(controls=request["controls"])
    return {"controls": request["controls"]}


def lose_undo(record: Record) -> None:
    for path in record["controls"]:
        if not os.path.exists(path):
            continue
        now = control_of(path)
        if now and now != record["until_ns"]:
            raise Foreign("%s says another moment than was set; it was left alone" % path)
        if now:
            set_control(path, 0)


# --- log-xid: line, over, dcgm --------------------------------------------------------------------------------------------

KMSG, SWITCH, WARNING = "/dev/kmsg", "/proc/sys/kernel/printk_devkmsg", "<4>"


def unwritable() -> str:
    """Why no line of ours would get into the kernel's log; empty: it would (Documentation/ABI/testing/dev-kmsg of Linux)."""
    if not os.access(KMSG, os.W_OK):
        return "%s cannot be written to by this user" % KMSG
    with suppress(OSError), open(SWITCH, encoding="ascii") as text:
        if text.read().strip() == "off":
            return "this kernel drops what is written to %s (%s is off)" % (KMSG, SWITCH)
    return ""


def logged(word: str) -> list[str]:
    """Lines of the kernel's log with that word, the oldest first."""
    found: list[str] = []
    log = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                record = os.read(log, 8192).decode("utf-8", "replace")
            except BrokenPipeError:  # overwritten while it was about to be read
                continue
            except BlockingIOError:
                return found
            message = record.partition(";")[2].partition("\n")[0]
            if word in message:
                found.append(message)
    finally:
        os.close(log)


def log_line(line: str) -> None:
    try:
        with open(KMSG, "w", encoding="utf-8") as log:
            log.write(WARNING + line + "\n")
    except OSError as problem:
        raise Failed("%s cannot be written: %s" % (KMSG, problem)) from problem


DCGMI_S, FIND_S = 2.5, 10.0  # of a call of dcgmi, three of an undo's in UNDO_S; and of the one before them, which finds GPUs
XIDS, EVERY_XID_S = "230", 1.0  # DCGM_FI_DEV_XID_ERRORS; how often it is looked at while the fault holds


def dcgmi(seconds: float, *words: str, kept: tuple[int, ...] = ()) -> str:
    """What DCGM's own client says, whatever its exit status: it may be that of another part of the answer. Raises Failed.

    `kept`: descriptors that it has open as well, for as long as it lives.
    """
    with os.fdopen(os.memfd_create("dcgmi"), "w+b") as said:  # a pipe would be read to its end, whoever else holds it open
        try:
            asked = subprocess.Popen(
                ["dcgmi", *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=kept,
                preexec_fn=lambda: last_resort(seconds),  # noqa: PLW1509 - no other thread; the kernel ends it even when this is dead
            )
        except OSError as problem:
            raise Failed("dcgmi, DCGM's client, cannot be run (%s)" % problem.strerror) from problem
        ended = asked.wait()
        if ended == -signal.SIGALRM:
            raise Failed("dcgmi %s did not end within %g s: DCGM's host engine hangs" % (" ".join(words), seconds))
        if ended < 0:
            raise Failed("dcgmi %s was ended by signal %d" % (" ".join(words), -ended))
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    if "Unable to connect to host engine" in text:  # dcgmi/Command.cpp
        raise Failed("no host engine of DCGM (nv-hostengine) answers dcgmi on this machine")
    return text


def last_of(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1].strip()


def dcgm_gpu(uuid: str) -> int:
    """DCGM's own number of that GPU, which need not be NVML's (dcgmi/Query.cpp: a table, one cell of words for each). Raises Failed."""
    found: dict[str, str] = {}
    said, number = dcgmi(FIND_S, "discovery", "-l"), ""
    for line in said.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 4 and cells[1].isdigit():
            number = cells[1]
        if len(cells) == 4 and cells[2].startswith("Device UUID:"):
            found[cells[2].split()[-1]] = number
    if uuid not in found:
        raise Failed("DCGM's host engine does not list %s, but %s" % (uuid, ", ".join(found) or last_of(said)))
    return int(found[uuid])


def newest_xid(gpu: int) -> int:
    """DCGM's newest sample of a GPU's XIDs by their stamps; 0: there is none (dcgmi/DeviceMonitor.cpp says N/A or 0). Raises Failed.

    XIDs come by events, so that a sample stays the newest until another comes (dcgmlib/src/DcgmCacheManager.cpp: RecordXidForGpu).
    """
    said = dcgmi(DCGMI_S, "dmon", "-e", XIDS, "-i", str(gpu), "-c", "1")
    row = re.search(r"^\s*GPU\s+%d\s+(N/A|\d+)\s*$" % gpu, said, re.MULTILINE)
    if not row:
        raise Failed("DCGM does not tell the XIDs of its GPU %d: %s" % (gpu, last_of(said)))
    return int(row.group(1)) if row.group(1).isdigit() else 0


def inject_xid(gpu: int, xid: int, kept: tuple[int, ...] = ()) -> str:
    """What dcgmi says to a sample, which itself stamps with the whole second (dcgmi/DcgmiTest.cpp); of two in one the later is the newer."""
    return dcgmi(DCGMI_S, "test", "--inject", "--gpuid", str(gpu), "-f", XIDS, "-v", str(xid), kept=kept)


def must_be_taken(said: str, gpu: int, xid: int) -> None:
    if "Successfully injected" not in said:
        raise Failed("DCGM took no XID %d for its GPU %d: %s" % (xid, gpu, last_of(said)))


def tell_xid(held: Held, gpu: int) -> None:
    """Give the fault's XID. Until dcgmi has answered, the record says that nobody knows whether DCGM has it or will have it.

    A dcgmi that outlives this agent has the record locked for as long, and whoever undoes waits for that lock.
    """
    told = held.body["record"]["dcgm"]
    told["unanswered"] = True
    held.keep()
    with open(held.path, "rb") as record:
        fcntl.flock(record, fcntl.LOCK_SH)
        said = inject_xid(gpu, told["xid"], (record.fileno(),))
    told["unanswered"] = False
    held.keep()
    must_be_taken(said, gpu, told["xid"])


def strange(gpu: int, xid: int) -> Foreign:
    return Foreign("DCGM has XID %d as the newest of its GPU %d, which is none of this drill's; it was left alone" % (xid, gpu))


def take_back_xid(record: Record) -> None:
    """By a sample of 0, in a second later than all of the fault: what DCGM reads of the kernel's log gets into its cache a second late, with
    the stamp of the line, and what a dcgmi asked that had no answer any time later, with dcgmi's stamp. Nobody can keep it from covering an
    XID that comes between the look and the sample.
    """
    xid, unseen = record["dcgm"]["xid"], record["line"] or record["dcgm"]["unanswered"]
    time.sleep(1.0 - time.time() % 1.0)
    gpu = dcgm_gpu(record["dcgm"]["uuid"])
    now = newest_xid(gpu)
    if now == xid or (unseen and not now):
        must_be_taken(inject_xid(gpu, 0), gpu, 0)
        now = newest_xid(gpu)
    if now not in (0, xid):
        raise strange(gpu, now)
    if now:
        raise Failed("DCGM still has XID %d as the newest of its GPU %d" % (xid, gpu))


def say_over(record: Record) -> None:
    """Once: an undo that failed at something else is made again."""
    with suppress(OSError):  # whoever may not read it may still write to it
        if logged(record["over"]):
            return
    log_line(record["over"])


def log_prepare(request: Record, held: Held) -> Record:
    del held  # nothing of the device is opened
    why = unwritable() if request["line"] else ""
    if why:
        raise Refused(why)
    told = request["dcgm"]
    if told:
        gpu = dcgm_gpu(told["uuid"])
        standing = newest_xid(gpu)
        if standing:
            raise Refused("DCGM has XID %d of its GPU %d already" % (standing, gpu))
        told = {"uuid": told["uuid"], "xid": told["xid"], "unanswered": False}
    return {"line": request["line"], "over": request["over"], "dcgm": told, "boot": boot()}


def log_apply(request: Record, held: Held) -> Record:
    if request["dcgm"]:
        tell_xid(held, dcgm_gpu(request["dcgm"]["uuid"]))
    if request["line"]:
        log_line(request["line"])
    held.show(line=request["line"])
    return {"line": request["line"], "dcgm": request["dcgm"]}


def log_go_on(request: Record, held: Held) -> None:
    """Without a sample (DCGM's host engine began anew, maybe with other numbers) the XID is told again; not otherwise, since each is an event
    for whoever counts.
    """
    while True:
        held.go_on(EVERY_XID_S)
        if request["dcgm"]:
            gpu = dcgm_gpu(request["dcgm"]["uuid"])
            now = newest_xid(gpu)
            if not now:
                tell_xid(held, gpu)
            elif now != request["dcgm"]["xid"]:
                raise strange(gpu, now)
        held.show()


def log_undo(record: Record) -> None:
    """In both places, whatever becomes of the first. What they had was in memory: after another boot it is none of the drill's."""
    if record["boot"] != boot():
        return
    problems: list[Failed | Foreign] = []
    for told, end in ((record["dcgm"], take_back_xid), (record["line"], say_over)):
        try:
            if told:
                end(record)
        except (Failed, Foreign) as problem:
            problems.append(problem)
    if problems:
        failed = any(isinstance(problem, Failed) for problem in problems)
        raise (Failed if failed else Foreign)("; ".join(map(str, problems)))


def look_at_dcgm(uuid: str) -> int:
    """As one JSON object: `why` DCGM tells nothing of that GPU, or empty; `gpu`, its own number of it, and `xid`, the newest or 0."""
    found: Record = {"why": "", "gpu": None, "xid": 0}
    try:
        found["gpu"] = dcgm_gpu(uuid)
        found["xid"] = newest_xid(found["gpu"])
    except Failed as problem:
        found["why"] = str(problem)
    os.write(1, (json.dumps(found) + "\n").encode("utf-8"))
    return 0


VERBS = {
    "saturate-gpu": Verb(saturate_prepare, saturate_apply, saturate_go_on, nothing),
    "fill-gpu": Verb(fill_prepare, fill_apply, fill_go_on, nothing),
    "limit-gpu": Verb(limit_prepare, limit_apply, shown_on, limit_undo),
    "lose-gpu": Verb(lose_prepare, lose_apply, shown_on, lose_undo),
    "log-xid": Verb(log_prepare, log_apply, log_go_on, log_undo, FIND_S),
}

# --- look -------------------------------------------------------------------------------------------------------------------

NAMES = (*HIP_COUNTED, "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "BLACKSTART_CUDA")


def environment_of(pid: int) -> Record:
    try:
        with open("/proc/%d/environ" % pid, "rb") as text:
            pairs = [pair.partition(b"=") for pair in text.read().split(b"\0")]
    except OSError:
        return {}
    return {name.decode(): value.decode("utf-8", "replace") for name, _, value in pairs if name.decode("latin-1") in NAMES}


def mapped_by(pid: int) -> set[str]:
    """Paths of all files that a process has mapped; none where it may not be looked at, or is gone."""
    with suppress(OSError), open("/proc/%d/maps" % pid, encoding="utf-8", errors="replace") as text:
        return {"/" + line.rstrip("\n").partition("/")[2] for line in text if "/" in line}
    return set()


def named(paths: set[str], beginning: str) -> str:
    """The first of these files whose name begins so; empty: there is none."""
    return next((path for path in sorted(paths) if os.path.basename(path).startswith(beginning)), "")


def hardware_of(pid: int, driver: str) -> str:
    """What the driver that a process has loaded from that file says of itself: real or simulated; empty: it cannot be read."""
    if KERNEL:
        return "simulated"
    path, access = "/proc/%d/root%s" % (pid, driver), mmap.ACCESS_READ
    with suppress(OSError, ValueError), open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=access) as text:
        return "simulated" if text.find(SIMULATED.encode() + b"\0") >= 0 else "real"
    return ""


def is_control(path: str) -> bool:
    """Whether that is what the shim makes: of this size, with nobody's boot in it or this one. No device is opened."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) != CONTROL.size:
            return False
        with open(path, "rb") as file:
            held = CONTROL.unpack(file.read(CONTROL.size))[0]
    except (OSError, struct.error):
        return False
    return held.rstrip(b"\0") in {b"", boot().encode("ascii")}


def cuda_of(pid: int) -> Record | None:
    """Of a process that has CUDA's driver loaded: `hardware` as that says, whether the shim stands before it, its `control` file as a whole
    path, and whether the shim has it `open`; None: it has no CUDA, or may not be looked at.
    """
    paths = mapped_by(pid)
    driver = named(paths, "libcuda.so")
    if not driver:
        return None
    shim = bool(named(paths, "libblackstart_cuda"))
    said = environment_of(pid).get("BLACKSTART_CUDA", "")
    if said:
        control = os.path.realpath(os.path.join("/proc/%d/cwd" % pid, said))
    else:  # some write a title over their environment, as vLLM's engine does (setproctitle)
        control = next(filter(is_control, sorted(paths)), "") if shim else ""
    return {"pid": pid, "hardware": hardware_of(pid, driver), "shim": shim, "control": control, "open": control in paths}


def fault_of(pid: int) -> str:
    """The fault that this process holds as an agent of this program, by its command line; empty: it is none."""
    with suppress(OSError, ValueError, IndexError, AttributeError), open("/proc/%d/cmdline" % pid, "rb") as text:
        words = text.read().rstrip(b"\0").split(b"\0")
        if words[-2].decode() in VERBS:
            return str(json.loads(words[-1].decode("utf-8")).get("fault", ""))
    return ""


def everybody() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def agents() -> dict[int, str]:
    """Pid and fault of each, by the process table and not by records: these may be lost while an agent goes on."""
    return {pid: fault for pid in everybody() for fault in [fault_of(pid)] if fault}


def belonging(container: str) -> list[int]:
    """Pids of all in a container: every runtime has its whole ID in the path of its control group, in both versions of these, and also
    where that path is told from another group's place (`0::/../docker-ID.scope`, `.../cri-containerd-ID.scope`, `.../crio-ID.scope`).
    """
    return [pid for pid in everybody() if container in (text_of("/proc/%d/cgroup" % pid) or "")]


def missing(loaded: Callable[[], Library]) -> str:
    """Why that library cannot be loaded; empty: it can."""
    try:
        loaded()
    except Refused as problem:
        return str(problem)
    return ""


def look_by_nvml(found: Record) -> None:
    try:
        nvml = Nvml()
        handles, found["broken"] = nvml.devices()
        for handle, parent in handles:
            try:
                found["gpus"].append(nvml.seen(handle, parent))
            except Failed as problem:
                found["broken"].append(str(problem))
    except (Refused, Failed) as problem:
        found["nvml"] = str(problem)


def look_by_kernel(found: Record) -> None:
    try:
        kfd = Kfd()
        gpus, found["amd_broken"] = kfd.gpus()
        for gpu in gpus:
            try:
                found["amd"].append(kfd.seen(gpu))
            except Failed as problem:
                found["amd_broken"].append(str(problem))
    except Refused as problem:
        found["kfd"] = str(problem)


def look_by_opencl(found: Record) -> None:
    try:
        found["devices"] = OpenClDevices().seen()
    except (Refused, Failed) as problem:
        found["opencl"] = str(problem)


def look_for_cuda(found: Record, pids: list[int]) -> None:
    """Which of these processes have CUDA, and, where one has the shim, which others have it as well."""
    found["processes"] = [seen for pid in pids for seen in [cuda_of(pid)] if seen]
    if any(seen["shim"] for seen in found["processes"]):
        others = (cuda_of(pid) for pid in everybody() if pid not in (*pids, os.getpid()))
        found["shimmed"] = [seen for seen in others if seen and seen["shim"]]


def look(request: Record) -> int:
    """What there is, as one JSON object. `nvml`, `cuda`, `kfd`, `hip`, `opencl`: why each is missing, or empty; `gpus` as NVML tells
    (`broken`: what is wrong with those it tells nothing of), `amd` and `amd_broken` as the kernel tells, `devices` of OpenCL; of each process
    there whether it is an agent of this fault (`ours`), or of any (`agent`), and `here`: whether its pid is one of these. `environment` of
    pids, `processes`: which of them have CUDA loaded, and the shim before it, `shimmed`: who else has the shim, where one of them has it,
    `unwritable`: why nothing gets into the kernel's log, `logged`: its lines that name the fault (null: it cannot be read), `agents`: pids of
    all that hold the fault.
    """
    last_resort(LOOK_S)
    if request.get("dcgm"):
        return look_at_dcgm(request["dcgm"])
    found: Record = {"nvml": "", "cuda": "", "kfd": "", "hip": "", "opencl": ""}
    found.update({word: [] for word in ("gpus", "broken", "amd", "amd_broken", "devices", "shimmed")})
    fault, pids, holding = request.get("fault", ""), list(request.get("pids", ())), agents()
    if request.get("container"):
        pids += belonging(request["container"])
    found.update(root=os.geteuid() == 0, t=time.monotonic(), agents=[pid for pid in holding if holding[pid] == fault], pids=pids)
    look_by_nvml(found)
    look_by_kernel(found)
    found["cuda"] = missing(lambda: Library("libcuda.so.1", CUDA_CODES))
    found["hip"] = missing(lambda: Library("libamdhip64.so", HIP_CODES, HIP_NAMES)) or missing(hiprtc)
    if request.get("opencl"):
        look_by_opencl(found)
    gpus = [*found["gpus"], *found["amd"], *(device for device in found["devices"] if device["kind"] == "gpu")]
    for process in (process for gpu in gpus for process in gpu["processes"]):
        here = os.path.exists("/proc/%d" % process["pid"])  # else these are pids of another namespace, the host's
        process.update(here=here, ours=process["pid"] in found["agents"], agent=process["pid"] in holding)
    found["unwritable"] = unwritable()
    found["logged"] = None
    with suppress(OSError):
        found["logged"] = logged(fault) if fault else []
    found["environment"] = {str(pid): environment_of(pid) for pid in pids}
    look_for_cuda(found, pids)
    os.write(1, (json.dumps(found) + "\n").encode("utf-8"))
    return 0


def main(arguments: list[str]) -> int:
    if len(arguments) == 2 and arguments[1].startswith("@") and arguments[0] == "undo":
        return undo(arguments[1][1:])
    if len(arguments) != 2 or arguments[0] not in (*VERBS, "look"):
        emit("refused", why="usage: gpu_agent.py %s|look REQUEST or gpu_agent.py undo @STATE" % "|".join(VERBS))
        return 3
    text = arguments[1]
    if text.startswith("@"):
        with open(text[1:], encoding="utf-8") as file:
            text = file.read()
    request = json.loads(text)
    return look(request) if arguments[0] == "look" else hold(arguments[0], request)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
