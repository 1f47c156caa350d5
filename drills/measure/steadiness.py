"""Was the service steady before the fault? If not, the reasons name the part, the lane and the figures."""

from collections import Counter
from collections.abc import Sequence

from ..scenario import Scenario, SteadyState
from .lane import in_baseline
from .observed import Observed
from .statistics import quantile
from .values import Baseline, LaneInfo, Probe

UNJUDGED = frozenset({"control", "health"})  # the machine's own echo; endpoints whose honesty is measured, not demanded
FIRST_TOKEN_KINDS = frozenset({"semantic", "workload", "stream"})
GOLDEN_KINDS = frozenset({"semantic", "replica"})
WRONG = frozenset({"wrong-answer", "wrong-model", "empty", "error-in-200"})
ENOUGH = 10  # samples of a lane, or eight tenths of what its rate gives within the hold
FEWEST = 3
WATCHED = 0.9  # of `hold`: the first probes start at a random phase

# What to do where a healthy server never fulfils one part of the success rule, by outcome and by a word of its detail.
SWITCHES = (
    ("truncated", "finish_reason", "success: {finish_reason: false}"),
    ("truncated", "DONE", "success: {done: false}"),
    ("truncated", "", "success: {finish_reason: false} or {done: false}"),
    ("empty", "", "success: {text: false}"),
    ("malformed", "finish_reason", "success: {finish_reason: false}"),
)


def steady(scenario: Scenario, observed: Observed) -> Baseline:
    """Hold the watch before the first fault against `steady_state`. Needs no faults in `observed`, so that it serves live."""
    window, demand = observed.window, scenario.steady_state
    why_not: list[str] = []
    watched_s = window.baseline_end_s - window.baseline_start_s
    if watched_s < demand.hold.total_seconds() * WATCHED:
        why_not.append(f"watched for {watched_s:.1f} s, {demand.hold.total_seconds():g} s are demanded")
    by_lane: dict[str, list[Probe]] = {info.name: [] for info in observed.lanes}
    for probe in in_baseline(observed.probes, observed):
        by_lane[probe.lane].append(probe)
    judged = [info for info in observed.lanes if info.kind not in UNJUDGED]
    if not judged:
        why_not.append("no lane asked what users ask")
    too_few = False
    for info in judged:
        known = [probe for probe in by_lane[info.name] if probe.outcome != "void"]
        needed = _needed(info, watched_s)
        if len(known) < needed:
            too_few = True
            why_not.append(f"{info.name}: {len(known)} answers, at least {needed} are needed to know what is normal")
        elif known:
            why_not += _lane(info, known, demand) or _overtaken(info, by_lane[info.name], demand)
    return Baseline(window.baseline_start_s, window.baseline_end_s, not why_not, tuple(why_not), too_few)


def _needed(info: LaneInfo, watched_s: float) -> int:
    if info.kind == "stream":
        return 0  # one long answer may take as long as the whole baseline
    return ENOUGH if info.period_s <= 0 else max(FEWEST, min(ENOUGH, int(0.8 * watched_s / info.period_s)))


def _lane(info: LaneInfo, probes: Sequence[Probe], demand: SteadyState) -> list[str]:
    why_not = []
    right = sum(probe.outcome == "ok" for probe in probes)
    wrong = sum(probe.outcome in WRONG for probe in probes)
    short = demand.success is not None and not demand.success.holds(right / len(probes))
    if short or (demand.golden == "all" and info.kind in GOLDEN_KINDS and wrong):
        why_not.append(_what_failed(info, probes, demand))
    return why_not + _first_token(info, probes, demand)


def _overtaken(info: LaneInfo, probes: Sequence[Probe], demand: SteadyState) -> list[str]:
    """Questions that hang while later ones are answered: a half-dead service, and a patient client that has not given up yet."""
    answered = {probe.sequence for probe in probes}
    if info.period_s <= 0 or not answered or demand.success is None:
        return []
    asked = max(answered) - min(answered) + 1
    if demand.success.holds(len(answered) / asked):
        return []
    return [f"{info.name}: {asked - len(answered)} of {asked} questions still hang while later ones were answered"]


def _what_failed(info: LaneInfo, probes: Sequence[Probe], demand: SteadyState) -> str:
    """`semantic: 12 of 20 answers wrong-answer (" Paris, which"); >= 99 % right are demanded`."""
    kinds = Counter(probe.outcome for probe in probes if probe.outcome != "ok")
    parts = [f"{count} of {len(probes)} answers {outcome}" for outcome, count in kinds.most_common(3)]
    example = next((probe.text for probe in probes if probe.outcome == kinds.most_common(1)[0][0] and probe.text), "")
    told = f"{info.name}: {', '.join(parts)}" + (f" ({example[:80]!r})" if example else "")
    if demand.success is not None:
        told += f"; {demand.success.relation} {demand.success.limit:.4g} right are demanded"
    switch = _switch(probes)
    return told + (
        f"; if this server is healthy and never does that part, switch it off in the service file: {switch}" if switch else ""
    )


def _switch(probes: Sequence[Probe]) -> str:
    """The switch for the part that every single probe lacks; empty where they do not all lack the same."""
    outcomes = {probe.outcome for probe in probes}
    if len(outcomes) != 1:
        return ""
    (outcome,) = outcomes
    detail = " ".join({probe.text for probe in probes})
    return next((switch for kind, word, switch in SWITCHES if kind == outcome and word in detail), "")


def _first_token(info: LaneInfo, probes: Sequence[Probe], demand: SteadyState) -> list[str]:
    bound = demand.first_token_p95
    if bound is None or info.kind not in FIRST_TOKEN_KINDS:
        return []
    p95_s = quantile(
        [probe.first_s - probe.sent_s for probe in probes if probe.outcome == "ok" and probe.first_s is not None], 0.95
    )
    if p95_s is None:
        return [f"{info.name}: no first token was seen, though its 95th percentile is bounded"]
    if bound.holds(p95_s):
        return []
    return [f"{info.name}: 95th percentile of the first token {p95_s:.3g} s, {bound.relation} {bound.limit:g} s is demanded"]
