"""Parts that two threads work on: all are done, few at a time, and the error raised is that of the first part that fails."""

import time
from collections.abc import Iterator

import pytest
import torch

from torchbp.data._threads import each, num_threads


@pytest.mark.parametrize("threads", [1, 2])
def test_each_part_is_worked_on_once_and_few_are_there_at_a_time(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    taken, done, most = [], [], 0

    def parts() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    def work(number: int) -> None:
        nonlocal most
        most = max(most, len(taken) - len(done))
        time.sleep(0.002)
        done.append(number)

    each(parts(), work)
    assert sorted(done) == taken == [*range(50)]
    assert most == threads == num_threads()


def test_the_first_part_that_fails_is_what_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.05 if number == 6 else 0)
        if number >= 6:
            raise ValueError(f"part {number}")

    with pytest.raises(ValueError, match="part 6"):
        each(iter(range(1000)), work)
    assert max(begun) < 20  # the other parts were not started
