"""Names and texts from strangers that a terminal, a spreadsheet or the file system could misinterpret."""

import io
import os
import pty
import shlex
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchbp._files import NotWrittenError, replacing
from torchbp._text import printable
from torchbp.cli import main
from torchbp.training.prediction import table_file

CLEAR = "\x1b[2J"  # clears the screen
STRANGE = [CLEAR, "\x9b31m", "\x07", "\u202e", "\u2028"]


@given(st.text())
def test_what_is_shown_is_one_line_and_tells_what_is_there(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not {*shown} & {chr(code) for code in (*range(32), *range(127, 160))}
    if "\\" not in text:
        assert shown.encode("latin-1", "backslashreplace").decode("unicode_escape") == text


def strange_table(name: str, mark: str) -> Path:
    path = Path(f"{name}{mark}.csv")
    rows = "".join(f"{row * 0.7:.1f},{'rst'[row % 3]}{mark}!,{'no' if row % 2 else 'yes'}{mark}!\n" for row in range(40))
    path.write_text(f"age{mark},city{mark},bought{mark}\n{rows}", encoding="utf-8")
    return path


@pytest.mark.parametrize("mark", STRANGE, ids=ascii)
def test_no_text_of_a_file_reaches_the_terminal_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], mark: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = strange_table("table", mark)
    fit = ["fit", "--data.path", str(path), "--trainer.max_epochs", "1"]
    assert main([*fit, "--data.target", f"bought{mark}"]) == 0
    assert main([*fit, "--data.target", "bought"]) == 1  # the message lists the columns' names
    assert main([*fit, "--data.target", f"bought{mark}", "--data.types", f'{{"city{mark}": "numeric"}}']) in (1, 2)  # not YAML
    assert main(["test", "--ckpt_path", "last"]) == 0
    assert main(["predict", "--ckpt_path", f"gone{mark}.ckpt"]) == 1
    assert main([f"fit{mark}"]) == 2
    out, error = capfd.readouterr()
    assert mark not in out + error
    escaped = mark.encode("unicode_escape").decode()
    assert f"table{escaped}.csv" in out
    assert f"yes{escaped}" in out
    assert f"fit{escaped}" in error or repr(f"fit{mark}") in error


def test_predictions_are_data_in_a_file_and_text_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pl.DataFrame({"name": [f"a{CLEAR}", "b"], "p": [0.5, 0.25]})
    with table_file(str(tmp_path / "out.csv")) as write:
        write(rows)
    assert CLEAR in (tmp_path / "out.csv").read_text()
    reading, writing = pty.openpty()
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        with table_file("-") as write:
            write(rows)
        assert os.read(reading, 1000).replace(b"\r", b"") == b"name,p\na\\x1b[2J,0.5\nb,0.25\n"
    os.close(reading)


@pytest.mark.parametrize("quoted", [False, True])
def test_formulas_are_quoted_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quoted: bool) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{row * 0.7:.1f},{'=1+1' if row % 2 else 'no'}\n" for row in range(40))
    Path("table.csv").write_text(f"age,bought\n{rows}")
    says = ["=HYPERLINK(A1)", "+1", "-3.5", "-x", "@SUM(A1)", "a=b", "", "\tx"]
    new = pl.DataFrame({"age": [1.0] * len(says), "=name": says, "'=name": says})
    new.write_csv("new.csv")
    assert main(["fit", "--data.path", "table.csv", "--data.target", "bought", "--trainer.max_epochs", "1"]) == 0
    options = ["--ckpt_path", "last", "--data.path", "new.csv", "--output", "out.csv", *["--quote_formulas=true"] * quoted]
    assert main(["predict", *options]) == 0
    out = pl.read_csv(io.StringIO(Path("out.csv").read_text()), infer_schema=False).fill_null("")
    mark = "'" if quoted else ""
    assert out.columns[:3] == ["row", f"{mark}=name", f"{mark * 2 or chr(39)}=name"]
    expected = [f"{mark}=HYPERLINK(A1)", "+1", "-3.5", f"{mark}-x", f"{mark}@SUM(A1)", "a=b", "", f"{mark}\tx"]
    assert out[:, 1].to_list() == expected
    assert {*out["class"]} <= {f"{mark}=1+1", "no"}


def test_what_is_planted_beside_a_file_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, path = tmp_path / "victim", tmp_path / "o.csv"
    victim.write_text("precious")
    (tmp_path / f"o.csv.{os.getpid()}.partial").symlink_to(victim)
    with replacing(path) as partial:
        assert not partial.is_symlink()
        partial.write_text("rows")
    assert (path.read_text(), victim.read_text()) == ("rows", "precious")
    partial.symlink_to(victim)
    monkeypatch.setattr("secrets.token_hex", lambda size: partial.name.split(".")[-2])  # the stranger has guessed the name
    with pytest.raises(NotWrittenError, match=r"o.csv cannot be written: File exists"), replacing(path) as again:
        again.write_text("others")
    assert (path.read_text(), victim.read_text()) == ("rows", "precious")


@pytest.mark.parametrize("size", [2**31, 2**63, 2**70])
def test_a_batch_of_more_rows_than_there_are_is_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], size: int
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = []
    strange_table("table", "")
    for batch_size in (size, "full"):
        for engine in ("autograd", "fused"):
            options = shlex.split("--data.path table.csv --data.target bought --trainer.max_epochs 2 --trainer.logger false")
            assert main(["fit", *options, "--model.engine", engine, "--data.batch_size", str(batch_size)]) == 0
            out, error = capfd.readouterr()
            assert error == ""
            shown.append([line for line in out.splitlines() if line.startswith("epoch 2/2")])
    assert shown[:2] == shown[2:]
