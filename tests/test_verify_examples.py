"""The document of the checks: its check finds each example's fault, and the fixed Function has no findings."""

import pytest
from check_examples import bases, example, inputs

from torchbp.verify import Status, audit
from torchbp.verify._audit import CHECKS, name_of
from torchbp.verify._explain import explanations

NAMES = list(dict.fromkeys(map(name_of, CHECKS)))
# PyTorch's own defect with any Function that has a jvp: forward mode in forward mode (pytorch issue 197867).
NESTED = {"forward over forward", "mixes to order 3"}
COMPILED = {"torch compile", "func grad in compile", "torch export"}
FAULTS: set[Status] = {"wrong", "error", "unsupported", "wasteful"}


def test_every_check_has_a_section_that_begins_with_what_it_asks() -> None:
    sections = explanations()
    assert set(sections) == set(NAMES)
    for check in CHECKS:
        asked = getattr(check, "func", check).__doc__.split("\n\n")[0]
        assert sections[name_of(check)].startswith(" ".join(asked.split()))


@pytest.mark.parametrize("check", NAMES)
def test_fault_of_an_example_is_found_and_mended(check: str) -> None:
    fault, fixed, given, options = example(check)
    result = audit(fault, given, only={check}, **options)
    assert {row.status for row in result.rows if row.check == check} & FAULTS
    if fixed.__name__ == "Fixed":
        assert audit(fixed, given, only={check}, **options).findings == []


@pytest.mark.parametrize("name", [name for name, value in bases().items() if getattr(value, "generate_vmap_rule", False)])
def test_function_of_the_examples_is_clean(name: str) -> None:
    result = audit(bases()[name], inputs(name), only=set(NAMES) - NESTED - COMPILED)
    assert [f"{row.check} {row.dtype}: {row.detail}" for row in result.findings] == []
    assert {row.check for row in result.rows if row.status == "skipped"} <= {
        "reference",
        "expanded upstream",
        "noncontiguous upstream",
    }
