"""The shipped configurations reach their documented results over several seeds."""

import pytest
from training_runs import run_config


@pytest.mark.parametrize(
    ("name", "metric", "seeds", "at_least"),
    [
        ("breast_cancer", "accuracy/test", 5, 0.965),
        ("digits", "accuracy/test", 2, 0.96),
        ("moons", "accuracy/test", 1, 0.98),
        ("xor", "accuracy/test", 5, 1.0),
        ("diabetes", "r2/test", 3, 0.4),
    ],
)
def test_mean_over_seeds(name: str, metric: str, seeds: int, at_least: float) -> None:
    results = [run_config(name, seed)[metric] for seed in range(seeds)]
    assert sum(results) / seeds >= at_least, results
