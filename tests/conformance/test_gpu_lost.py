"""gpu-lost on a live service that was started with the shim; the driver behind it is simulated."""

import functools
import json
import os
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from blackstart.commands import cuda_shim
from blackstart.drills.refusal import Refused
from blackstart.drills.verdict import ExitCode
from blackstart.injectors import gpu_agent
from blackstart.injectors.base import Differs, NotYet, Refusal, Undo
from blackstart.injectors.gpu_agent import CONTROL
from blackstart.injectors.gpu_lost import GpuLost
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import Component, ProcessSpec
from blackstart.injectors.testing import check_injector
from blackstart.tests.accelerators import HERE, WHOLE, FakeGpus, missing
from blackstart.tests.command import until
from blackstart.tests.conformance.test_process_faults import agents
from blackstart.tests.ports import free_port

Opened = Callable[[], ProcessPlatform]


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    try:
        return cuda_shim.built(tmp_path_factory.mktemp("shim"))
    except Refused as problem:
        missing(str(problem))


def opened_with(folder: Path, environment: dict[str, str]) -> Iterator[tuple[Opened, int]]:
    """How to open a platform with one replica that has memory on WHOLE and such an environment; and its port."""
    fakes, port = FakeGpus(folder / "fake"), free_port()
    start = (sys.executable, str(HERE / "gpu_victim.py"), str(port), WHOLE)
    component = Component("r0", "replica", port=port, start=start, environment={**fakes.environment, **environment})
    spec = ProcessSpec((component,))
    opened = functools.partial(ProcessPlatform, spec, folder, folder / "state", {**os.environ, **fakes.environment})
    with closing(opened()) as platform:
        try:
            assert platform.start_missing() == ("r0",)
            yield opened, port
        finally:
            platform.stop_started()


@pytest.fixture
def replica(tmp_path, shim):
    yield from opened_with(tmp_path, {"LD_AUDIT": str(shim), "BLACKSTART_CUDA": str(tmp_path / "control")})


def said(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()


def lose(control: Path, boot: bytes | None = None) -> int:
    """Have the file say so for a minute, in place, since it is mapped; until which moment."""
    here = Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
    moment = int((time.monotonic() + 60) * 1e9)
    with control.open("r+b") as file:
        file.write(CONTROL.pack(here if boot is None else boot, moment, 999, 0))
    return moment


def planned(platform: ProcessPlatform, deadline_s: float = 60.0) -> Undo:
    injector = GpuLost()
    undo = injector.plan((platform.current("r0"),), platform)
    return undo.stamped(f"lost.{time.time_ns()}", injector.kind, {}, deadline_s)


def test_the_whole_contract(replica):
    opened, port = replica
    check_injector(GpuLost(), opened, ("r0",), effect=lambda: said(port) == "cuMemGetInfo_v2: unknown error")


def test_the_evidence_is_what_the_service_itself_says(replica):
    opened, _ = replica
    with closing(opened()) as platform:
        injector, undo = GpuLost(), planned(platform)
        injector.inject(undo, platform)
        found = until("the proof", lambda: injector.verify(undo, platform))
        assert found.source == "the target's health endpoint"
        assert found.detail == "r0: /health answers 500 (cuMemGetInfo_v2: unknown error); hardware: simulated"
        injector.recover(undo, platform)
        assert injector.verify_recovered(undo, platform).facts["hardware"] == "simulated"
        with pytest.raises(NotYet, match=r"no agent has r0's CUDA calls fail"):
            injector.verify(undo, platform)


def test_a_killed_agent_leaves_a_fault_that_ends_by_itself_and_that_recover_ends_at_once(replica, tmp_path):
    opened, port = replica
    with closing(opened()) as platform:
        injector = GpuLost()
        for deadline_s, told in ((6.0, False), (60.0, True)):  # time enough to find the agent, end it and ask the service
            undo = planned(platform, deadline_s)
            injector.inject(undo, platform)
            (pid,) = agents(tmp_path, "lose-gpu")
            os.kill(pid, signal.SIGKILL)
            until("the agent to be gone", lambda: not agents(tmp_path, "lose-gpu"))
            assert said(port) == "cuMemGetInfo_v2: unknown error"
            if told:
                with pytest.raises(Differs, match="still has the CUDA calls of r0 fail"):
                    injector.verify_recovered(undo, platform)
                with closing(opened()) as fresh:
                    injector.recover(undo, fresh)
            until("calls to go through again", lambda: said(port).endswith("bytes are free"), 10 if not told else 0.5)
            injector.recover(undo, platform)
            injector.verify_recovered(undo, platform)
        assert list((tmp_path / "state" / "agents").glob("*.json*")) == []


def test_what_somebody_else_has_set_is_left_alone(replica, tmp_path):
    opened, _ = replica
    with closing(opened()) as platform:
        injector, undo = GpuLost(), planned(platform)
        injector.inject(undo, platform)
        moment = lose(tmp_path / "control")
        with pytest.raises(Differs, match="says another moment than was set; it was left alone"):
            injector.recover(undo, platform)
        assert struct.unpack("@Q", (tmp_path / "control").read_bytes()[40:48]) == (moment,)


def test_a_control_file_of_another_boot_says_nothing(replica, tmp_path):
    _, port = replica
    lose(tmp_path / "control", b"another boot")
    assert said(port).endswith("bytes are free")


@pytest.mark.parametrize("with_shim", [False, True])
def test_a_service_without_the_shim_is_refused_with_how_to_start_it(with_shim, shim, tmp_path):
    for opened, _ in opened_with(tmp_path, {"LD_AUDIT": str(shim)} if with_shim else {}):
        with closing(opened()) as platform:
            pid = platform.current("r0").details["pid"]
            with pytest.raises(Refusal) as problem:
                planned(platform)
            why = "has no BLACKSTART_CUDA in its environment" if with_shim else "uses CUDA without the shim before it"
            assert f"pid {pid} of r0 {why}; build it (python -m blackstart.commands.cuda_shim FOLDER)" in str(problem.value)


@contextmanager
def using_cuda(environment: dict[str, str], before: str = "") -> Iterator[int]:
    """The pid of a process that has CUDA's driver loaded, has done that and waits."""
    program = f"import ctypes, sys\nctypes.CDLL('libcuda.so.1')\n{before}print(flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.stdin.close()


def test_a_control_file_that_another_process_has_as_well_is_refused(replica, shim, tmp_path):
    """As where it stands in an environment that several replicas share: CUDA would fail in all of them. Under whatever name it has there."""
    opened, _ = replica
    drivers = {"LD_LIBRARY_PATH": str(tmp_path / "fake"), "LD_AUDIT": str(shim)}
    own = str(tmp_path / "fake" / ".." / "control")
    with closing(opened()) as platform:
        with using_cuda({**drivers, "BLACKSTART_CUDA": str(tmp_path / "another")}):
            planned(platform)
        with using_cuda({**drivers, "BLACKSTART_CUDA": own}) as pid, pytest.raises(Refusal) as problem:
            planned(platform)
        why = f"pid {pid}, which is none of r0's, has BLACKSTART_CUDA={tmp_path}/control as well, and its CUDA calls would fail along"
        assert why in str(problem.value)
        (tmp_path / "fake" / "libnvidia-ml.so.1").unlink()
        assert planned(platform).prior["hardware"] == "simulated"  # by the driver that is loaded, and not by NVML


def test_a_program_that_writes_its_title_over_its_environment_is_still_known(shim, tmp_path):
    """As vLLM's engine does by setproctitle: /proc has no BLACKSTART_CUDA of it any more, and the shim has the file all the same."""
    drivers = {**FakeGpus(tmp_path / "fake").environment, "LD_AUDIT": str(shim)}
    control = tmp_path / "control"
    cover = (
        "words = open('/proc/self/stat').read().rpartition(')')[2].split()\n"  # proc(5): env_start and env_end are the fields 50 and 51
        "start, end = int(words[47]), int(words[48])\n"
        "ctypes.memset(start, 0, end - start)\n"
    )
    with using_cuda({**drivers, "BLACKSTART_CUDA": str(control)}, cover) as pid:
        assert b"BLACKSTART_CUDA" not in Path(f"/proc/{pid}/environ").read_bytes()
        seen = gpu_agent.cuda_of(pid)
        assert (seen["shim"], seen["control"], seen["open"]) == (True, str(control), True)
        lose(control)
        assert gpu_agent.cuda_of(pid)["control"] == str(control)
    with using_cuda({**drivers, "BLACKSTART_CUDA": ""}, cover) as pid:
        assert gpu_agent.cuda_of(pid)["control"] == ""


def test_a_file_of_somebody_elses_is_left_alone(shim, tmp_path):
    """By the shim, which is inactive then, and by the agent."""
    letter = tmp_path / "letter"
    drivers = {**FakeGpus(tmp_path / "fake").environment, "LD_AUDIT": str(shim)}
    for content in (b"Dear reader,", b"x" * CONTROL.size + b"\n"):
        letter.write_bytes(content)
        with using_cuda({**drivers, "BLACKSTART_CUDA": str(letter)}) as pid:
            seen = gpu_agent.cuda_of(pid)
        assert (seen["shim"], seen["control"], seen["open"], seen["hardware"]) == (True, str(letter), False, "simulated")
        with pytest.raises(gpu_agent.Failed, match="is no control file of the CUDA shim"):
            gpu_agent.lose_prepare({"controls": [str(letter)], "deadline_s": 1.0}, None)
        assert letter.read_bytes() == content


def test_without_a_compiler_the_shim_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="built where a C compiler is, and here is none of cc, gcc, clang"):
        cuda_shim.built(tmp_path)


def test_a_shim_that_cannot_be_built_there_or_in_time_is_refused_by_name(tmp_path, monkeypatch, capsys):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    compiler.chmod(0o755)
    assert cuda_shim.main([str(compiler / "inside")]) == ExitCode.USAGE
    assert f"cannot be built in {compiler}/inside: " in "".join(capsys.readouterr().err.splitlines())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cuda_shim, "BUILD_S", 0.1)
    with pytest.raises(Refused, match=rf"the CUDA shim is not built by {compiler} within 0.1 s"):
        cuda_shim.built(tmp_path)


def with_driver(folder: Path, shim: Path, source: str) -> dict[str, str]:
    """The environment of a program that has this for CUDA's driver, with the shim before it, which makes `control` there."""
    (folder / "driver.c").write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", str(folder / "libcuda.so.1"), str(folder / "driver.c")], check=True)
    added = {"LD_LIBRARY_PATH": str(folder), "LD_AUDIT": str(shim), "BLACKSTART_CUDA": str(folder / "control")}
    return {**os.environ, **added}


def test_functions_that_the_driver_itself_gives_out_go_through_the_shim(shim, tmp_path):
    """CUDA's runtime asks cuGetProcAddress, and never the linker, for all but that one."""
    program, control = tmp_path / "program.py", tmp_path / "control"
    environment = with_driver(
        tmp_path,
        shim,
        "int cuInit(int f) { return f; }\nconst char *cuGetErrorName(int c, char **n) { return 0; }\n"
        "int cuSum(int a, int b, int c, int d, int e, int f, int g, double h) { return a + b + c + d + e + f + g + (int)h; }\n"
        "int cuGetProcAddress_v2(const char *n, void **f, int v, unsigned long x, void *s) { return *f = cuSum, 0; }\n",
    )
    program.write_text(
        "import ctypes, sys\nd, f = ctypes.CDLL('libcuda.so.1'), ctypes.c_void_p()\n"
        "d.cuGetProcAddress_v2(b'cuSum', ctypes.byref(f), 12000, ctypes.c_ulong(0), None)\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int] * 7, ctypes.c_double)(f.value)\n"
        "for _ in sys.stdin: print([call(1, 2, 3, 4, 5, 6, 7, 8.0), d.cuInit(5), d.cuGetErrorName(1, None)], flush=True)\n"
    )
    command = [sys.executable, str(program)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asked:

        def answers() -> list[int]:
            asked.stdin.write("\n")
            asked.stdin.flush()
            return json.loads(asked.stdout.readline())

        assert answers() == [36, 5, 0]
        assert gpu_agent.cuda_of(asked.pid)["hardware"] == "real"  # for all that this driver says of itself
        lose(control)
        assert answers() == [999, 999, 0]
        lose(control, b"")
        assert answers() == [36, 5, 0]
        asked.stdin.close()


def test_calls_are_bound_in_any_thread_and_each_way_to_ask_for_them_is_called_as_itself(shim, tmp_path):
    """PyTorch binds calls in the threads of a server; the pointer to cuGetProcAddress that a driver gives out is another than the linker's."""
    program = tmp_path / "program.py"
    environment = with_driver(
        tmp_path,
        shim,
        "int cuOne(void) { return 1; }\n"
        "static int inner(const char *n, void **f, int v, unsigned long x, int *s) { return *s = 3, *f = cuOne, 0; }\n"
        "int cuGetProcAddress(const char *n, void **f, int v, unsigned long x) { return *f = cuOne, 0; }\n"
        "int cuGetProcAddress_v2(const char *n, void **f, int v, unsigned long x, int *s) { return *s = 2, *f = inner, 0; }\n",
    )
    program.write_text(
        "import ctypes, threading\nd, told = ctypes.CDLL('libcuda.so.1'), []\n"
        "def asked(ask, name, with_status=True):\n"
        "    found, status = ctypes.c_void_p(), ctypes.c_int(1)\n"
        "    last = ctypes.byref(status) if with_status else ctypes.c_void_p(8)\n"
        "    ask(name, ctypes.byref(found), 12000, ctypes.c_ulong(0), last)\n"
        "    told.append(status.value)\n"
        "    return found.value\n"
        "def all():\n"
        "    inner = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(\n"
        "        asked(d.cuGetProcAddress_v2, b'cuGetProcAddress'))\n"
        "    asked(inner, b'cuOne')\n"
        "    one = ctypes.CFUNCTYPE(ctypes.c_int)(asked(d.cuGetProcAddress, b'cuOne', False))\n"
        "    asked(inner, b'cuOne')\n"
        "    print(told, one(), d.cuOne())\n"
        "thread = threading.Thread(target=all)\nthread.start()\nthread.join()\n"
    )
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[2, 3, 1, 3] 1 1\n"), done.stderr
