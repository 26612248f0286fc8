"""Runs every code block of the documentation and of README, page by page."""

import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest
from sklearn.datasets import load_iris
from training_runs import CONFIGS

from torchbp.cli import main

ROOT = Path(__file__).parents[1]
# Other tests run these.
ELSEWHERE = {"own_function", "published", "checks"}
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.stem not in ELSEWHERE]


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the code of each block."""
    return re.findall(r"^```(python|pycon|sh)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the configurations and the files that the pages use."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    x, y = load_iris(return_X_y=True)
    names = ["setosa", "versicolor", "virginica"]
    rows = [f"{','.join(map(str, row))},{names[label]}" for row, label in zip(x, y, strict=True)]
    (tmp_path / "my.csv").write_text("\n".join(["a,b,c,d,species", *rows]) + "\n")
    (tmp_path / "new.csv").write_text("a,b,c,d\n5.1,3.5,1.4,0.2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("page", [page for page in [*PAGES, ROOT / "README.md"] if blocks(page)], ids=lambda page: page.stem)
def test_code_of_a_page_runs(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, str(page), "exec"), names)
        elif language == "pycon":
            examples = doctest.DocTestParser().get_doctest(code, names, page.stem, str(page), 0)
            assert doctest.DocTestRunner().run(examples, clear_globs=False).failed == 0, capsys.readouterr().out
            names = examples.globs
        else:
            for line in code.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "torchbp"
                shorter = ["--trainer.max_epochs", "1"] if arguments[0] == "fit" else []
                assert main([*arguments, *shorter]) == 0, f"{line}\n{capsys.readouterr().err}"


def test_pictures_that_pages_show_are_there() -> None:
    for page in PAGES:
        for path in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / path).is_file(), f"{page.name}: {path}"
    shown = {path.name for path in (ROOT / "docs" / "gallery").iterdir()}
    assert shown == {Path(p).name for p in re.findall(r"gallery/\w+\.png", (ROOT / "docs" / "gallery.md").read_text())}
