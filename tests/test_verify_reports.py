"""The audit as a tool: exit codes, baseline, JUnit, Markdown, explanations, the scan of a package and the pytest decorator."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from torchbp.cli import main
from torchbp.verify._audit import CHECKS, name_of

NAIVE = ["gradcheck", "--function", "naive_functions:mse_loss", "--inputs", "4,3 4,3"]
ONLY = ["--only", "backward,needs input grad,forward mode,double backward"]


@pytest.mark.parametrize(
    ("checks", "fail_on", "status"),
    [
        ("backward", "wasteful", 0),
        ("needs input grad", "unsupported", 0),
        ("needs input grad", "wasteful", 1),
        ("forward mode", "error", 0),
        ("forward mode", "unsupported", 1),
        ("double backward", "wrong", 1),
    ],
)
def test_exit_code_is_that_of_the_status_asked_for(checks: str, fail_on: str, status: int) -> None:
    assert main([*NAIVE, "--only", checks, "--fail-on", fail_on]) == status


def test_known_findings_pass_and_new_ones_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = tmp_path / "known.json"
    assert main([*NAIVE, *ONLY, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    baseline.write_text(json.dumps(rows))
    assert main([*NAIVE, *ONLY, "--baseline", str(baseline), "--fail-on", "wasteful"]) == 0
    assert "3 known findings of " in capsys.readouterr().out
    baseline.write_text(json.dumps([row for row in rows if row["check"] != "double backward"]))
    assert main([*NAIVE, *ONLY, "--baseline", str(baseline)]) == 1
    out = capsys.readouterr().out
    assert "wrong double backward" in out
    assert "wasteful" not in out
    baseline.write_text('{"function": 1}')
    assert main([*NAIVE, *ONLY, "--baseline", str(baseline)]) == 1
    assert "it must be the output of torchbp gradcheck --json" in capsys.readouterr().err


def test_junit_and_markdown_hold_every_row(tmp_path: Path) -> None:
    xml, summary = tmp_path / "audit.xml", tmp_path / "summary.md"
    summary.write_text("before\n")
    assert main([*NAIVE, *ONLY, "--junit", str(xml), "--markdown", str(summary), "--fail-on", "unsupported"]) == 1
    (suite,) = ElementTree.parse(xml).getroot()
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("4", "2")
    failed = {case.attrib["name"]: case.find("failure") for case in suite}
    assert failed["backward [cpu, float64]"] is None
    assert failed["double backward [cpu, float64]"].attrib["type"] == "wrong"  # type: ignore[union-attr]
    text = summary.read_text()
    assert text.startswith("before\n| function | wrong | error |")
    assert "| `naive_functions:mse_loss` | 1 | 0 | 1 | 1 | 0 | 0 | 1 |" in text
    assert "- **unsupported** no jvp: 1 check not possible (forward mode); add a jvp staticmethod" in text


def test_check_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", "--explain", "zero inputs"]) == 0
    out = capsys.readouterr().out
    assert "0 / 0 is NaN" in out
    assert "class Fault(Cube)" in out
    assert "class Cube(Function)" in out
    assert main(["gradcheck", "--explain", "nothing"]) == 1
    assert "explain has 'nothing', which is no check; torchbp gradcheck --explain lists the checks" in capsys.readouterr().err
    assert main(["gradcheck", "--explain"]) == 0
    out = capsys.readouterr().out
    assert all(name_of(check) in out for check in CHECKS)


def test_functions_of_a_package_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "scanned"
    package.mkdir()
    (package / "__init__.py").write_text("from scanned.layers import Half\n")
    (package / "broken.py").write_text("import no_such_module\n")
    (package / "layers.py").write_text(
        "from torch.autograd import Function\nclass Half(Function):\n    @staticmethod\n    def forward(ctx, x, by=2):\n"
        "        return x / by\n    @staticmethod\n    def jvp(ctx, dx, _):\n        return dx / 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["gradcheck", "--scan", "scanned"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scanned.layers:Half(x, by=2)  has jvp"
    assert lines[1].startswith("1 autograd Functions in scanned")
    assert lines[2] == "1 modules could not be imported: scanned.broken: ModuleNotFoundError"
    for name in [name for name in sys.modules if name.startswith("scanned")]:
        del sys.modules[name]


def test_decorator_makes_a_test_of_each_check(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_audited="""
        import naive_functions
        from torchbp.verify.pytest import audited

        @audited("4,3", "4,3", only=["backward", "forward mode", "double backward"])
        def test_cost():
            return naive_functions.mse_loss
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rs")
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*wrong: double backward: second derivative by input: 12 of 12 entries wrong*"])


def test_gradcheck_imports_neither_lightning_nor_polars() -> None:
    code = (
        "import sys; from torchbp.cli import main;"
        "main(['gradcheck', '--function', 'linear', '--only', 'backward,torch compile']);"
        "assert not {'lightning', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
