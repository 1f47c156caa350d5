"""Data loss: which acknowledged writes did not survive, and how old the oldest of them was when the fault struck.

Only what was acknowledged can be lost; a write with an unknown outcome is counted, never judged. The age of the oldest lost write
lies between the fault less its own acknowledgement and the fault less that of the last survivor before it.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from ..finished import InjectedFault
from .observed import Observed
from .values import DataLoss, Interval, Write

GONE = frozenset({"lost", "corrupt"})
ACK_TRAVEL_S = 0.25  # an acknowledgement sent just before the fault may arrive so much after
SHORTEST_RPO_S = 0.5  # at 20 writes a second, no shorter window holds ten of them
LONGEST_LOOK_S = 10.0
SPARE = 1.2  # ten writes in the window are asked for, and their phase must not decide


def data_loss(observed: Observed, rpo: timedelta | None) -> DataLoss | None:
    """None where nothing was written. `lost_ids` are in order of their acknowledgement, those read back corrupt included."""
    if not observed.writes:
        return None
    found = {entry.id: entry.found for entry in observed.read_back}
    acked = sorted((write for write in observed.writes if write.acknowledged_s is not None), key=_acked)
    fates = Counter(found.get(write.id, "unread") for write in acked)
    gone = [write for write in acked if found.get(write.id) in GONE]
    alive = [write for write in acked if found.get(write.id) in {"present", "duplicated"}]
    struck = _struck(observed.faults, gone)
    oldest, reaches_back = _oldest(struck, gone, alive) if struck else (None, False)
    before = [write for write in alive if struck and _acked(write) <= struck.hi_s]
    newest = None if struck is None or not before else _age(struck, _acked(before[-1]), _acked(before[-1]))
    return DataLoss(
        acknowledged=len(acked),
        lost=fates["lost"],
        duplicated=fates["duplicated"],
        corrupt=fates["corrupt"],
        indeterminate=sum(write.outcome == "indeterminate" for write in observed.writes),
        unread=fates["unread"],
        oldest_lost=oldest,
        newest_survivor=newest,
        lost_ids=tuple(write.id for write in gone),
        before_fault=_before_fault(acked, struck, rpo),
        reaches_back=reaches_back,
    )


def _acked(write: Write) -> float:
    assert write.acknowledged_s is not None
    return write.acknowledged_s


def _struck(faults: Sequence[InjectedFault], gone: Sequence[Write]) -> Interval | None:
    """The fault that cost the writes: the first one to take effect after the newest lost write was acknowledged.

    A link is cut, then the primary killed: what was acknowledged in between is lost by the kill. Writes that were lost after
    the last fault (a dying primary still acknowledged them) date the loss themselves.
    """
    moments = sorted(fault.effective for fault in faults if fault.effective)
    if not moments:
        return None
    if not gone:
        return Interval(*moments[0])
    newest = _acked(gone[-1])
    later = next((moment for moment in moments if moment[1] + ACK_TRAVEL_S >= newest), None)
    return Interval(*later) if later else Interval(newest, newest)


def _oldest(struck: Interval, gone: Sequence[Write], alive: Sequence[Write]) -> tuple[Interval | None, bool]:
    if not gone:
        return None, False
    oldest = _acked(gone[0])
    earlier = [_acked(write) for write in alive if _acked(write) < oldest]
    return _age(struck, oldest, max(earlier, default=gone[0].invoked_s)), not earlier


def _age(struck: Interval, youngest_s: float, oldest_s: float) -> Interval:
    return Interval(max(0.0, struck.lo_s - youngest_s), max(0.0, struck.hi_s - oldest_s))


def _before_fault(acked: Sequence[Write], struck: Interval | None, rpo: timedelta | None) -> int:
    """How many writes could have shown a loss: acknowledged within the RPO before the fault (10 s where that is next to nothing)."""
    if struck is None:
        return 0
    rpo_s = rpo.total_seconds() if rpo else 0.0
    look_s = rpo_s * SPARE if rpo_s >= SHORTEST_RPO_S else LONGEST_LOOK_S
    return sum(struck.lo_s - look_s <= _acked(write) <= struck.hi_s for write in acked)
