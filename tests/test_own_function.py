"""docs/own_function.md: audits the code of each step and compares the findings with the page's."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from torchbp import verify
from torchbp.verify import STATUSES, Result

DOCUMENT = Path(__file__).parents[1] / "docs" / "own_function.md"
STEPS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def findings(result: Result) -> str:
    """One line for each status other than passed."""
    lines = []
    for status in [status for status in STATUSES if status != "passed"]:
        missing = dict.fromkeys(row.missing for row in result.with_status(status))
        for feature in missing:
            checks = dict.fromkeys(row.check for row in result.with_status(status) if row.missing == feature)
            lines.append(f"{status}{f', no {feature}' if feature else ''}: {', '.join(checks)}\n")
    return "".join(lines)


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_step_has_the_findings_that_it_names(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(STEPS) == 5
    code, expected = STEPS[step]
    (tmp_path / "swish.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("swish", None)
    importlib.invalidate_caches()
    (result,) = verify.gradcheck(["cpu"], "swish:swish", "swish:example", "swish:plain")
    sys.modules.pop("swish")
    assert findings(result) == expected
