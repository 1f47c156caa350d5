"""Stands in for dcgmi and the host engine that it asks, whose state is a file beside it: prints what DCGM's sources print (dcgmi/Query.cpp,
DeviceMonitor.cpp, DcgmiTest.cpp), and keeps samples as they do (timeseries.c): by stamps, of which no two are the same.
"""

import fcntl
import json
import signal
import sys
import time
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
    samples = state["samples"].setdefault(told.get("--gpuid", "1"), [])  # GPU 1 is what the real one takes as well
    stamp = int(time.time()) * 1_000_000
    while stamp in [before for before, _ in samples]:
        stamp += 1
    samples.append([stamp, int(told["-v"])])
    STATE.write_text(json.dumps(state))
    print("Successfully injected field info.")


def answer(command, words):
    with STATE.with_name("state.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(STATE.read_text())
        if command not in [*state["hangs"], *state["fails"]]:
            {"discovery": discovery, "dmon": dmon, "test": test}[command](state, words)
            return 0
    while command in state["hangs"]:
        signal.pause()
    print(state["fails"][command][0])
    return state["fails"][command][1]


sys.exit(answer(sys.argv[1], sys.argv[2:]))
