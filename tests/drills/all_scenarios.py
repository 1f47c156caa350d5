"""`make drills`: every shipped scenario at full length on the demo service, plain and hardened; prints a table of verdicts."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from blackstart.scenarios import shipped


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1, help="how often each; verdicts that differ between times fail")
    parser.add_argument("scenarios", nargs="*", default=list(shipped()))
    asked = parser.parse_args()
    unstable = 0
    with tempfile.TemporaryDirectory(prefix="blackstart-drills-") as folder:
        for name in asked.scenarios:
            for kind in ("plain", "hardened"):
                drills = [drill(name, kind, Path(folder)) for _ in range(asked.times)]
                verdicts = {verdict for verdict, _ in drills}
                unstable += len(verdicts) > 1 or (kind == "hardened" and verdicts != {"passed"})
                print(
                    f"{name:<28} {kind:<9} {'/'.join(verdict for verdict, _ in drills):<24} {'; '.join(time for _, time in drills)}",
                    flush=True,
                )
    return 1 if unstable else 0


def drill(name: str, kind: str, folder: Path) -> tuple[str, str]:
    command = [
        sys.executable,
        "-m",
        "blackstart",
        "demo",
        name,
        "--out",
        str(folder),
        *(["--hardened"] if kind == "hardened" else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    result = folder / "latest" / "result.json"
    if done.returncode == 2 or not result.exists():
        return f"exit {done.returncode}", done.stderr.strip().splitlines()[-1]
    found = json.loads(result.read_text(encoding="utf-8"))
    recovery = found["measurements"]["recovery_time"]
    shown = f"{recovery['lo_s']:.2f}-{recovery['hi_s']:.2f} s" if recovery and recovery.get("hi_s") is not None else "-"
    return found["verdict"], shown


if __name__ == "__main__":
    sys.exit(main())
