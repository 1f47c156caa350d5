"""`make drills`: every shipped scenario that the demo can be drilled with there at full length, plain and hardened, held against the table of
expected.py; prints a line for each, and exits with 1 where one contradicts it."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from blackstart.tests.drills.expected import EXPECTED, contradiction

LAST_LINES = 3  # of what a drill without a result said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1, help="how often each")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a field, for a quick look")
    parser.add_argument("--on", default="process", help="where the demo service runs, as for `blackstart demo`")
    parser.add_argument("--image", default="python:3.12-slim", help="what it runs in there")
    parser.add_argument("scenarios", nargs="*", default=list(EXPECTED))
    asked = parser.parse_args()
    if unknown := set(asked.scenarios) - set(EXPECTED):
        parser.error(f"nothing is expected of {', '.join(sorted(unknown))}")
    wrong = drilled = 0
    with tempfile.TemporaryDirectory(prefix="blackstart-drills-") as folder:
        for name in asked.scenarios:
            if asked.on not in EXPECTED[name].on:
                print(f"{name:<28} not for the demo on {asked.on}", flush=True)
                continue
            for kind in ("plain", "hardened"):
                for number in range(asked.times):
                    code, result, said = drill(name, kind, Path(folder) / f"{name}-{kind}-{number}", asked)
                    why = contradiction(name, kind, result)
                    drilled, wrong = drilled + 1, wrong + bool(why)
                    print(
                        f"{name:<28} {kind:<9} {outcome(code, result):<34} {'' if not why else f'WRONG: {why}'}".rstrip(),
                        flush=True,
                    )
                    for line in [] if result else said:
                        print(f"    {line}", flush=True)
    if wrong:
        print(f"{wrong} of {drilled} contradict what is expected of them")
    return 1 if wrong else 0


def drill(name: str, kind: str, out: Path, asked: argparse.Namespace) -> tuple[int, dict[str, Any] | None, list[str]]:
    """Exit code, result.json where there is one, and the last lines on standard error."""
    command = [sys.executable, "-m", "blackstart", "demo", name, "--out", str(out)]
    command += ["--hardened"] if kind == "hardened" else []
    command += ["--on", asked.on, "--image", asked.image] if asked.on != "process" else []
    command += [word for setting in asked.set for word in ("--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    found = out / "latest" / "result.json"
    result = json.loads(found.read_text(encoding="utf-8")) if found.exists() else None
    return done.returncode, result, done.stderr.strip().splitlines()[-LAST_LINES:]


def outcome(code: int, result: dict[str, Any] | None) -> str:
    """The verdict and the recovery time, as the interval that it is."""
    if result is None:
        return f"exit {code}"
    recovery = result["measurements"]["recovery_time"]
    if not recovery:
        return f"{result['verdict']}"
    if recovery.get("censored") or recovery.get("hi_s") is None:
        return f"{result['verdict']:<12} > {recovery['lo_s']:.1f} s"
    return f"{result['verdict']:<12} [{recovery['lo_s']:.2f}, {recovery['hi_s']:.2f}] s"


if __name__ == "__main__":
    sys.exit(main())
