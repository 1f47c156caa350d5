"""Stands in for dcgmi and the host engine that it asks, whose state is a file beside it: prints what DCGM's sources print (dcgmi/Query.cpp,
DeviceMonitor.cpp, DcgmiTest.cpp), and keeps samples as they do (timeseries.c): by stamps, of which no two are the same.
"""

import fcntl
import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

STATE = Path(sys.argv[0]).with_name("state.json")
RULE = "+--------+----------------------------------------------------------------------+"


def discovery(state, words):
    assert words == ["-l"], words
    print(f"{len(state['gpus'])} GPUs found (Active).\n{RULE}\n| GPU ID | {'Device Information':68} |\n{RULE}")
    for uuid, number in sorted(state["gpus"].items(), key=lambda pair: pair[1]):
        print(f"| {number:<6} | {'Name: Simulated GPU':68} |\n| {'':6} | {'PCI Bus ID: 0000FFFF:17:00.0':68} |")
        print(f"| {'':6} | {'Device UUID: ' + uuid:68} |\n{RULE}")
    print("0 NvSwitches found.\n+-----------+\n| Switch ID |\n+-----------+\n0 ConnectX found.")


def dmon(state, words):
    gpu = words[3]
    assert words == ["-e", "230", "-i", gpu, "-c", "1"], words
    newest = max(state["samples"].get(gpu, []), default=[0, "N/A"])[1]
    print(f"{'#Entity':10}{'XIDER':12}\n{'ID':22}\n{'GPU ' + gpu:10}{newest!s:12}")


def test(state, words):
    told = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "--inject", words
    assert told["-f"] == "230", words
    gpu, stamp = told.get("--gpuid", "1"), int(time.time()) * 1_000_000  # GPU 1 is what the real one takes as well
    if state["late"]:
        state["late"] -= 1
        state["queued"].append([gpu, [stamp, int(told["-v"])]])
        return False
    samples = state["samples"].setdefault(gpu, [])
    while stamp in [before for before, _ in samples]:
        stamp += 1
    samples.append([stamp, int(told["-v"])])
    print("Successfully injected field info.")
    return True


@contextmanager
def engine():
    """The state, which nobody else changes meanwhile, and which is kept as it is then."""
    with STATE.with_name("state.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(STATE.read_text())
        before = json.dumps(state)
        yield state
        if json.dumps(state) != before:
            STATE.write_text(json.dumps(state))


def answer(command, words):
    with engine() as state:
        slow_s = state["slow"].get(command, 0.0)
        state["begun"] += [os.getpid()] if slow_s else []
    time.sleep(slow_s)
    with engine() as state:
        hangs = command in state["hangs"]
        if command in state["fails"] and not hangs:
            print(state["fails"][command][0])
            return state["fails"][command][1]
        if not hangs:
            hangs = {"discovery": discovery, "dmon": dmon, "test": test}[command](state, words) is False
    while hangs:
        signal.pause()
    return 0


sys.exit(answer(sys.argv[1], sys.argv[2:]))
