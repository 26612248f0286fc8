"""What a benchmark has measured: one comparison a row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """Ours beside a peer's, under one setting.

    Attributes:
        ratio: the peer's value by ours, above 1 where ours is better: of times the median over the rounds, each round's two by
            one another. None where there is nothing to compare with, and ``gap`` says why.
        ours_value, peer_value: medians, in ``unit``.
        spread: half of the ratios lie within so much, as a fraction of the median one.
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
    """The row of two among the contestants that were measured together."""
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
    """Seconds a step of each contestant, ``rounds`` of them, taken in turn so that whatever else the machine does hits all.

    Args:
        steps: how many steps a call is.
        block: so many seconds are measured at a time, by as many calls as that takes; None for one call, and none before it.
    """
    calls = dict.fromkeys(contestants, 1)
    if block is not None:
        for name, call in contestants.items():
            call()
            calls[name] = max(1, round(block / seconds(call, 3)))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = [*contestants]
    for number in range(rounds):
        # From another one each round, since each finds the machine as the one before has left it.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(seconds(contestants[name], calls[name]) / steps)
        progress(f"round {number + 1} of {rounds}")
    return times


def seconds(call: Callable[[], object], count: int) -> float:
    """Seconds a call takes, on average over ``count``."""
    start = perf_counter()
    for _ in range(count):
        call()
    return (perf_counter() - start) / count
