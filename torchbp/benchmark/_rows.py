"""The results of a benchmark, one comparison per row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One comparison of ours with a peer, in one setting.

    Attributes:
        measure, setting: what is measured, and on what.
        ours, peer: the names of the two.
        unit: ``s`` or ``B``.
        ours_value, peer_value: the medians, in ``unit``.
        ratio: peer / ours, above 1 if ours is better; for times, the median of the rounds' ratios. None if there is nothing to
            compare with.
        spread: the interquartile range of the ratios / their median.
        gap: why there is nothing to compare with; else None.
    """

    measure: str
    setting: str
    ours: str
    peer: str
    unit: str
    ours_value: float | None = None
    peer_value: float | None = None
    ratio: float | None = None
    spread: float | None = None
    gap: str | None = None


def compare(
    measure: str, setting: str, ours: str, peer: str, unit: str, times: dict[str, list[float]], gaps: dict[str, str]
) -> Row:
    """The row for two of the contestants that were measured together."""
    for name in (ours, peer):
        if name in gaps:
            return Row(measure, setting, ours, peer, unit, gap=gaps[name])
    ratios = [theirs / own for own, theirs in zip(times[ours], times[peer], strict=True)]
    middle = median(ratios)
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (middle,) * 3
    values = median(times[ours]), median(times[peer])
    return Row(measure, setting, ours, peer, unit, *values, middle, (high - low) / middle)


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    block: float | None,
    steps: int = 1,
    progress: Progress = lambda _: None,
) -> dict[str, list[float]]:
    """Seconds per step of each contestant in each round, measured in turn so that other load hits all alike.

    Args:
        contestants: the calls, by name.
        rounds: how often each is measured.
        block: seconds per measurement, which repeats the call as often as that takes; None for one call without a warm-up.
        steps: the number of steps in a call.
        progress: called with the round.
    """
    calls = dict.fromkeys(contestants, 1)
    if block is not None:
        for name, call in contestants.items():
            call()
            calls[name] = max(1, round(block / seconds(call, 3)))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = [*contestants]
    for number in range(rounds):
        # Start with another one in each round, because each run affects the next.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(seconds(contestants[name], calls[name]) / steps)
        progress(f"round {number + 1} of {rounds}")
    return times


def seconds(call: Callable[[], object], count: int) -> float:
    """Seconds per call, averaged over ``count`` calls."""
    start = perf_counter()
    for _ in range(count):
        call()
    return (perf_counter() - start) / count
