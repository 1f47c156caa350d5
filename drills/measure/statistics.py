"""Exact statistics: quantiles that are samples, intervals and tests without assumptions on the distribution."""

import math
from collections.abc import Sequence
from fractions import Fraction


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest sample that at least `share` (0 to 1) of all samples do not exceed; None without samples."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The narrowest symmetrical pair of order statistics that holds the median with `confidence`; None below six samples.

    Needs no distribution: the k-th smallest and the k-th largest of n miss the median with 2 P(Binomial(n, 1/2) < k).
    Six samples are the fewest that reach 95 %; a lower confidence may need fewer, yet below six all points are shown instead.
    """
    n = len(values)
    if n < 6:
        return None
    ordered, missed, best = sorted(values), Fraction(0), None
    for k in range(1, (n + 1) // 2 + 1):
        missed += Fraction(math.comb(n, k - 1), 2**n)
        if 1 - 2 * missed < Fraction(confidence):
            break
        best = (ordered[k - 1], ordered[n - k])
    return best


def success_run(passes: int, confidence: float = 0.95) -> float:
    """The chance to pass that so many straight passes show, with `confidence`: 1 shows 5 %, 14 show 81 %, 59 show 95 %."""
    return (1 - confidence) ** (1 / passes) if passes > 0 else 0.0


def share_upper_bound(hits: int, total: int, confidence: float = 0.999) -> float:
    """The largest share that still makes so few hits in `total` plausible: the exact one-sided bound of Clopper and Pearson."""
    if total == 0 or hits >= total:
        return 1.0
    lo, hi = hits / total, 1.0
    for _ in range(50):
        middle = (lo + hi) / 2
        if _binomial_at_most(hits, total, middle) > 1 - confidence:
            lo = middle
        else:
            hi = middle
    return hi


def _binomial_at_most(hits: int, total: int, share: float) -> float:
    if share >= 1:
        return 0.0
    log_miss, log_hit = math.log1p(-share), math.log(share) if share > 0 else -math.inf
    found = 0.0
    for k in range(hits + 1):
        ways = math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        found += math.exp(ways + (k * log_hit if k else 0.0) + (total - k) * log_miss)
    return min(1.0, found)


def mann_whitney_greater(new: Sequence[float], old: Sequence[float]) -> float:
    """The exact chance that `new` ranks this high or higher among all samples if both were drawn alike; ties share ranks.

    One-sided permutation test of Mann and Whitney. A run that never recovered enters as `math.inf`, so that it ranks last
    instead of being dropped. 1.0 where a side is empty: nothing is shown.
    """
    if not new or not old:
        return 1.0
    ranks = _doubled_ranks([*new, *old])
    observed, everything = sum(ranks[: len(new)]), sum(ranks)
    # The smaller side is the cheaper one to count; high ranks of one side are low ranks of the other.
    if len(new) <= len(old):
        ways = _sums(ranks, len(new))
        extreme = sum(count for total, count in ways.items() if total >= observed)
    else:
        ways = _sums(ranks, len(old))
        extreme = sum(count for total, count in ways.items() if total <= everything - observed)
    return float(Fraction(extreme, sum(ways.values())))


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice each value's rank, so that shared ranks stay whole numbers."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    last: dict[float, int] = {}
    for place, value in enumerate(ordered, start=1):
        first.setdefault(value, place)
        last[value] = place
    return [first[value] + last[value] for value in values]


def _sums(ranks: Sequence[int], size: int) -> dict[int, int]:
    """How many ways there are to choose `size` of `ranks` with each sum."""
    ways: list[dict[int, int]] = [{0: 1}, *({} for _ in range(size))]
    for rank in ranks:
        for chosen in range(size, 0, -1):
            target = ways[chosen]
            for total, count in ways[chosen - 1].items():
                target[total + rank] = target.get(total + rank, 0) + count
    return ways[size]
