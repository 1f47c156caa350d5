"""The digest lane's looks -> figures: when replicas had different models, how long, which deviated, what they answered meanwhile.

A look that found what the one before found says that nothing changed between them, as an answer of any lane speaks until the next;
where they differ, the change lies between both. What could not be looked at is unknown, and unknown is never a single digest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .digest_values import HAS, SERVES, Deviation, DigestRow, Digests, DigestSample, DigestStretch, MixedAnswers
from .observed import Observed
from .values import Interval, Probe

ANSWERING = frozenset({"semantic", "workload", "stream"})
ANSWERED = frozenset({"ok", "wrong-answer", "wrong-model", "empty", "error-in-200"})
Series = tuple[str, str]  # kind, replica
MOST_DIFFERENCES = 8
FAILED_S = 2.0  # a server that starts again takes longer, with whatever model


def single(latest: Mapping[Series, DigestSample], manifest: str) -> bool | None:
    """Whether all replicas have one digest by their latest looks, the manifest's where there is one; None: not known of all."""
    if _apart(latest, manifest) is not None:
        return False
    return True if latest and all(each.digest for each in latest.values()) else None


def _apart(latest: Mapping[Series, DigestSample], manifest: str) -> float | None:
    """The last moment at which two looks, or one and the manifest, are known to differ; None: no two do."""
    found = [each.lo_s for (kind, _), each in latest.items() if kind == HAS and manifest and each.digest not in {"", manifest}]
    for kind in (HAS, SERVES):
        known = sorted((each for (one, _), each in latest.items() if one == kind and each.digest), key=lambda each: -each.lo_s)
        other = next((each for each in known if each.digest != known[0].digest), None)
        found += [other.lo_s] if other else []
    return max(found, default=None)


def digests(observed: Observed) -> Digests | None:
    """None where the lane was off."""
    if not observed.digests:
        return None
    samples = sorted(observed.digests, key=lambda each: each.hi_s)
    series: dict[Series, list[DigestSample]] = {}
    for each in samples:
        series.setdefault((each.kind, each.replica), []).append(each)
    fault_s, manifest = observed.window.fault_s, observed.manifest
    reference, why = _reference(series, manifest, fault_s)
    skew = _Skew(manifest, fault_s or 0.0)
    for each in samples:
        skew.take(each)
    undo_s = _undo_s(observed, skew)
    found = None
    if skew.start is not None and not why:
        ours = skew.end is not None and undo_s is not None and skew.end.hi_s > undo_s
        found = (skew.start, None if ours else skew.end)
    return Digests(
        reference=reference,
        seen={
            kind: len({each.digest for each in samples if each.kind == kind and each.digest}) for kind in {k for k, _ in series}
        },
        rows=tuple(_row(key, looks, reference, observed.window.end_s) for key, looks in sorted(series.items())),
        deviations=tuple(_deviations(series, reference, observed.contents)),
        skew=found,
        single_again=found[1].minus(found[0]) if found and found[1] else None,
        longer_than_s=_longer_than(found, undo_s, observed.window.end_s),
        mixed=_mixed(observed, series, reference, found, undo_s),
        why_not=why or ("" if found else "no replica was seen to have another digest than the others after the fault"),
    )


def _reference(
    series: Mapping[Series, Sequence[DigestSample]], manifest: str, fault_s: float | None
) -> tuple[dict[str, str], str]:
    """By kind, what all had before the fault; and why there is nothing to hold anything against."""
    if fault_s is None:
        return {HAS: manifest} if manifest else {}, "nothing was injected"
    found: dict[str, str] = {}
    for kind in sorted({kind for kind, _ in series}):
        before = {
            replica: next((each.digest for each in reversed(looks) if each.hi_s <= fault_s), "")
            for (one, replica), looks in series.items()
            if one == kind
        }
        unknown = sorted(replica for replica, digest in before.items() if not digest)
        if unknown:
            return found, f"what {', '.join(unknown)} {kind} was not known before the fault"
        if len(set(before.values())) > 1:
            return found, f"replicas differed before the fault already: {_told(before)}"
        found[kind] = next(iter(before.values()))
    if manifest and found.get(HAS) != manifest:
        return found, f"before the fault already, replicas had {found.get(HAS, 'nothing')[:19]} and not what the manifest says"
    return found, ""


def _told(values: Mapping[str, str]) -> str:
    return ", ".join(f"{replica} {digest[:19]}" for replica, digest in sorted(values.items()))


@dataclass
class _Skew:
    """The mixed window, look by look: from the first difference after `since_s` to the last time that all were the same again."""

    manifest: str
    since_s: float
    start: Interval | None = None
    end: Interval | None = None
    apart_s: float = 0.0  # when two were last known to differ
    latest: dict[Series, DigestSample] = field(default_factory=dict)
    told: dict[Series, DigestSample] = field(default_factory=dict)  # the latest look that told something

    def take(self, sample: DigestSample) -> None:
        key = (sample.kind, sample.replica)
        before = self.told.get(key, sample)
        self.latest[key] = sample
        if sample.digest:
            self.told[key] = sample
        if sample.hi_s <= self.since_s:
            return
        apart_s = _apart(self.latest, self.manifest)
        if apart_s is not None:
            self.apart_s, self.end = max(self.apart_s, apart_s), None
            if self.start is None:
                self.start = Interval(max(before.lo_s, self.since_s), sample.hi_s)
        elif self.start is not None and self.end is None and single(self.latest, self.manifest):
            self.end = Interval(max(self.apart_s, self.start.lo_s), sample.hi_s)


def _undo_s(observed: Observed, skew: _Skew) -> float | None:
    """When we began to put the first fault back that was held when replicas differed: from then on nothing is the service's own doing."""
    start_s = skew.start.lo_s if skew.start else 0.0
    return min(
        (f.recovering_s for f in observed.faults if f.recovering_s is not None and f.recovering_s >= start_s), default=None
    )


def _longer_than(found: tuple[Interval, Interval | None] | None, undo_s: float | None, end_s: float) -> float | None:
    if found is None or found[1] is not None:
        return None
    return max(0.0, (end_s if undo_s is None else undo_s) - found[0].hi_s)


def _row(key: Series, looks: Sequence[DigestSample], reference: Mapping[str, str], end_s: float) -> DigestRow:
    kind, replica = key
    known = [each for each in looks if each.digest]
    gaps = [after.hi_s - before.lo_s for before, after in pairwise(known)]
    stretches: list[DigestStretch] = []
    for number, each in enumerate(looks):
        begin = (looks[number - 1].hi_s + each.hi_s) / 2 if number and looks[number - 1].digest != each.digest else each.lo_s
        until = end_s if number + 1 == len(looks) else looks[number + 1].lo_s
        state = "unknown" if not each.digest else "good" if each.digest == reference.get(kind, each.digest) else "bad"
        if stretches and stretches[-1].digest == each.digest:
            begin = stretches.pop().start_s
        elif stretches:
            stretches.append(_until(stretches.pop(), begin))
        stretches.append(DigestStretch(state, each.digest, begin, max(begin, until)))
    return DigestRow(kind, replica, len(looks), len(looks) - len(known), tuple(stretches), max(gaps, default=0.0))


def _until(stretch: DigestStretch, end_s: float) -> DigestStretch:
    return DigestStretch(stretch.state, stretch.digest, stretch.start_s, end_s)


def _deviations(
    series: Mapping[Series, Sequence[DigestSample]], reference: Mapping[str, str], contents: Mapping[str, Mapping[str, str]]
) -> Iterator[Deviation]:
    for (kind, replica), looks in sorted(series.items()):
        told, wanted = set(), reference.get(kind)
        last_s = looks[0].lo_s
        for each in looks:
            if wanted and each.digest and each.digest != wanted and each.digest not in told:
                told.add(each.digest)
                what = _differences(contents.get(wanted, {}), contents.get(each.digest, {}))
                yield Deviation(kind, replica, each.digest, Interval(last_s, each.hi_s), what)
            last_s = each.lo_s if each.digest else last_s


def _differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> tuple[str, ...]:
    """Names of files, and of tensors as FILE:TENSOR, that are not the same in both; none where either was never read."""
    if not wanted or not found:
        return ()
    names = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    more = len(names) - MOST_DIFFERENCES
    return tuple(names[:MOST_DIFFERENCES]) + ((f"{more} more",) if more > 0 else ())


def _mixed(
    observed: Observed,
    series: Mapping[Series, Sequence[DigestSample]],
    reference: Mapping[str, str],
    found: tuple[Interval, Interval | None] | None,
    undo_s: float | None,
) -> MixedAnswers | None:
    """By what a replica serves where it says so. What it has on disk it need not have loaded, so that is never certain; and an answer of
    nobody knows whom may be of any replica. Any answer may come of the prompt that a prefill worker computed.
    """
    if found is None:
        return None
    start, end = found
    until_s = min(observed.window.end_s, end.hi_s if end else observed.window.end_s, undo_s or observed.window.end_s)
    lanes = {lane.name for lane in observed.lanes if lane.kind in ANSWERING}
    asked = [each for each in observed.probes if each.lane in lanes and each.outcome in ANSWERED]
    inside = [each for each in asked if each.end_s >= start.lo_s and each.sent_s <= until_s]
    telling = {key for key, looks in series.items() if any(each.digest for each in looks)}
    kinds = {replica: SERVES if (SERVES, replica) in telling else HAS for _, replica in telling}

    def deviated(replica: str, probe: Probe) -> tuple[bool, bool]:
        kind = kinds.get(replica)
        surely, possibly = (False, True) if kind is None else _deviated(series[kind, replica], reference[kind], probe)
        return surely and kind == SERVES, possibly

    lo = hi = 0
    for probe in inside:
        surely, possibly = deviated(probe.backend, probe)
        lo, hi = lo + surely, hi + (possibly or any(deviated(each, probe)[1] for each in observed.prefill))
    return MixedAnswers(len(inside), lo, hi)


def _speaks(before: DigestSample, after: DigestSample) -> tuple[float, float]:
    """How far two looks tell of what was served, of which one at least told something. A look through exec takes a while, and a short one
    that failed takes nothing from the one beside it; one that failed for long leaves unknown what was served meanwhile.
    """
    return before.hi_s if _long(before) else before.lo_s, after.lo_s if _long(after) else after.hi_s


def _long(look: DigestSample) -> bool:
    return not look.digest and look.hi_s - look.lo_s > FAILED_S


def _deviated(looks: Sequence[DigestSample], wanted: str, probe: Probe) -> tuple[bool, bool]:
    """Whether the replica surely, and possibly, had another digest than it should while that answer was on its way."""
    told: list[set[str]] = [{""} for each in looks if _long(each) and each.lo_s < probe.end_s and each.hi_s > probe.sent_s]
    for before, after in pairwise(looks):
        known = {each.digest for each in (before, after) if each.digest}
        start_s, end_s = _speaks(before, after) if known else (before.hi_s, after.lo_s)
        if start_s <= probe.end_s and end_s >= probe.sent_s:
            told.append(known or {""})
    told = told or [{""}]
    others = [{digest != wanted for digest in each} for each in told]
    return all(each == {True} for each in others) and {""} not in told, any(True in each for each in others)
