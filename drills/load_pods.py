"""The probers that only give load, each in a pod of its own: what they see is no part of the figures, and says how much load there was."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..injectors.values import JSON
from .measure.channel import Channel
from .measure.lanes import load_named
from .measure.probing import Prober, ProbingError
from .refusal import Refused

MOST_AT_ONCE = 20


class LoadPods:
    """Those of one drill, from `begin` to `stop`; none where the prober gives all the load itself."""

    def __init__(self) -> None:
        self._probers: list[Prober] = []

    def begin(self, channels: Sequence[Channel]) -> None:
        """Takes one that waits for its configuration from each channel."""
        for channel in channels:
            self._probers.append(Prober())
            self._probers[-1].begin(channel)

    def start(self, configs: Sequence[JSON]) -> None:
        """Starts all, side by side; returns when the last one sends. Raises Refused."""
        with ThreadPoolExecutor(MOST_AT_ONCE) as workers:
            pairs = zip(self._probers, configs, strict=True)
            starting = [workers.submit(prober.start, config) for prober, config in pairs]
        for index, each in enumerate(starting):
            if isinstance(error := each.exception(), ProbingError):
                raise Refused([f"not injecting: pod {load_named(index)}: {error}"]) from error
            each.result()

    def stop(self, lost: Callable[..., None] = lambda **_: None) -> None:
        """Ends all. `lost` is told which `pod` did not send to the end, or lacks some of its samples here, and `why`."""
        probers, self._probers = self._probers, []
        with ThreadPoolExecutor(MOST_AT_ONCE) as workers:
            for index, why in enumerate(workers.map(_stopped, probers)):
                if why:
                    lost(pod=index, why=why)


def _stopped(prober: Prober) -> str:
    """What went wrong with it; empty: nothing."""
    said = prober.stop()
    return prober.missing or ("" if said else "its prober ended before the drill did")
