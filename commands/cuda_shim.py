"""Build what gpu-lost needs in a service: `python -m blackstart.commands.cuda_shim FOLDER`."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

from ..drills.refusal import Refused
from ..drills.verdict import ExitCode
from ..injectors.gpu_lost import BUILD, SHIM
from .console import say, tell

LIBRARY = "libblackstart_cuda.so"
COMPILERS = ("cc", "gcc", "clang")
BUILD_S = 60.0


def built(folder: Path) -> Path:
    """The library, in that folder. Raises Refused where it cannot be built, with what is missing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Refused([f"the CUDA shim is written for Linux on x86-64, and this is {sys.platform} on {platform.machine()}"])
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise Refused(
            [f"the CUDA shim is built where a C compiler is, and here is none of {', '.join(COMPILERS)}; apt-get install gcc"]
        )
    library = folder.absolute() / LIBRARY
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SHIM)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
    except subprocess.TimeoutExpired:
        raise Refused([f"the CUDA shim is not built by {compiler} within {BUILD_S:g} s; try when the machine is idle"]) from None
    except OSError as problem:
        raise Refused(
            [f"the CUDA shim cannot be built in {folder}: {problem}; name a folder that this user may write to"]
        ) from problem
    if done.returncode:
        raise Refused([f"the CUDA shim cannot be built by {compiler}: {done.stderr.strip()[-500:]}"])
    return library


def main(arguments: list[str]) -> ExitCode:
    if len(arguments) != 1:
        tell(f"usage: {BUILD}")
        return ExitCode.USAGE
    try:
        library = built(Path(arguments[0]))
    except Refused as problem:
        tell(str(problem))
        return ExitCode.USAGE
    say(f"LD_AUDIT={library} BLACKSTART_CUDA={library.with_name('REPLICA.control')}")
    tell(
        "start each replica with these two in its environment; REPLICA is its name, and the service's user must be able to make that file"
    )
    return ExitCode.PASSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
