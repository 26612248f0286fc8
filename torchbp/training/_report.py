"""``torchbp test --report``: writes the results as HTML, Markdown or JSON."""

import base64
import html
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbp import __version__
from torchbp._files import replacing
from torchbp._text import printable
from torchbp.training._figures import calibration, curves, figures
from torchbp.training._grids import (
    Grid,
    class_scores,
    confusion_of,
    in_markdown,
    label_scores,
    score_grid,
    shown,
    target_scores,
)
from torchbp.training._summary import detailed

if TYPE_CHECKING:
    from torchbp.training._results import Results

KINDS = (".html", ".md", ".json")
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}th,td{padding:.2rem .7rem;text-align:right}
th:first-child,td:first-child{text-align:left}tr{border-bottom:1px solid #ddd}thead tr{border-bottom:2px solid #888}
.wide{overflow-x:auto}img{max-width:100%}.note{color:#666}"""


def refuse_report(path: str) -> None:
    """Refuse a report that cannot be written, before the test begins.

    Raises:
        ValueError: the extension is not ``.html``, ``.md`` or ``.json``, or the folder does not exist.
        ModuleNotFoundError: the report has pictures and matplotlib is not installed.
    """
    kind = Path(path).suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"the report {path} has the extension {kind!r}; it must be one of {', '.join(KINDS)}")
    if not Path(path).parent.is_dir():
        raise ValueError(f"the report's folder {Path(path).parent} does not exist")
    if kind != ".json" and find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            f"the pictures of {path} need matplotlib: pip install 'torchbp[report]'; a .json report has no pictures"
        )


def write_report(path: str, results: "Results") -> None:
    """Write the report; the pictures of Markdown are files beside it, NAME-PICTURE.png.

    Raises:
        NotWrittenError: a file cannot be written.
    """
    target = Path(path)
    kind = target.suffix.lower()
    if kind == ".json":
        text = json.dumps(_plain(content(results)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        parts: list[tuple[str, Grid | bytes]] = [(grid.title, grid) for grid in grids(results)]
        with warnings.catch_warnings():  # matplotlib and NumPy warn about torchmetrics' tensors
            warnings.simplefilter("ignore", DeprecationWarning)
            parts += [(title, _png(figure)) for title, figure in figures(results)]
        text = as_html(parts, _heading(results)) if kind == ".html" else as_markdown(parts, _heading(results), target)
    with replacing(target) as partial:
        partial.write_text(text, encoding="utf-8")


def _heading(results: "Results") -> str:
    task = results.module.task
    threshold = f", {results.names[1]} above a probability of {results.module.threshold:g}" if task == "binary" else ""
    return f"{task}: {len(results.outcome):,} test rows{threshold}"


def content(results: "Results") -> dict[str, Any]:
    """All numbers of a report, by name, unrounded; values that are not defined are NaN or None."""
    module, outcome, names = results.module, results.outcome, results.names
    found: dict[str, Any] = {
        "torchbp": __version__,
        "task": module.task,
        "rows": len(outcome),
        "metrics": results.scores,
        "baseline": {"name": results.baseline.name, "metrics": results.baseline_scores} if results.baseline else None,
    }
    if module.task == "regression":
        found["targets"] = [asdict(one) for one in target_scores(outcome.prediction, outcome.y, names, results.offsets)]
    elif module.task == "multilabel":
        found["labels"] = [asdict(one) for one in label_scores(outcome.prediction, outcome.y, names)]
    else:
        confusion = confusion_of(outcome.prediction, outcome.y, module.threshold)
        found["classes"] = [asdict(one) for one in class_scores(confusion, names)]
        found["confusion_matrix"] = confusion.tolist()
    if module.task == "binary":
        found |= {"positive": names[1], "threshold": module.threshold}
    if module.task != "regression":
        found["curves"] = curves(outcome, module.task, names)
        found["calibration"] = [asdict(one) for one in calibration(outcome, module.task)]
    found["importance"] = [asdict(one) for one in results.importances]
    return found


def grids(results: "Results") -> list[Grid]:
    """All tables of a report, with all their rows."""
    module, outcome, names = results.module, results.outcome, results.names
    columns: dict[str, Mapping[str, float]] = {"test": results.scores}
    note = ""
    if results.baseline:
        columns["baseline"], note = results.baseline_scores, f"baseline: {results.baseline.name}"
    found = [score_grid("scores", columns, {name: len(outcome) for name in columns}, note)]
    found += detailed(module, outcome, names, results.offsets, "the test rows", whole=True)
    if results.importances:
        leading = "r2" if module.task == "regression" else "accuracy"
        rows = [
            [
                one.column,
                f"{shown(one.cost)} ± {shown(one.cost_deviation)}",
                f"{shown(one.score)} ± {shown(one.score_deviation)}",
            ]
            for one in results.importances
        ]
        note = "the column's values are shuffled among the test rows: mean and deviation of 10 shuffles"
        found.append(Grid("importance of the columns", ["column", "cost rises by", f"{leading} falls by"], [*rows], note))
    return found


def as_html(parts: list[tuple[str, Grid | bytes]], heading: str) -> str:
    """One HTML page with the pictures inline."""
    text = [
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{_escaped(heading)}</title><style>{STYLE}</style>'
        f"<h1>{_escaped(heading)}</h1>"
    ]
    for title, part in parts:
        text.append(f"<h2>{_escaped(title)}</h2>")
        if isinstance(part, bytes):
            text.append(f'<img alt="{_escaped(title)}" src="data:image/png;base64,{base64.b64encode(part).decode()}">')
        else:
            head, *body = ("".join(f"<{tag}>{_escaped(cell)}</{tag}>" for cell in row) for tag, row in _tagged(part))
            rows = "".join(f"<tr>{row}</tr>" for row in body)
            text.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead>{rows}</table></div>')
            if part.note:
                text.append(f'<p class="note">{_escaped(part.note)}</p>')
    return "\n".join([*text, f'<p class="note">torchbp {__version__}</p></html>\n'])


def _tagged(grid: Grid) -> list[tuple[str, Any]]:
    return [("th", grid.header), *(("td", row) for row in grid.rows)]


def as_markdown(parts: list[tuple[str, Grid | bytes]], heading: str, target: Path) -> str:
    """The text in Markdown; writes its pictures beside ``target``."""
    text = [f"# {in_markdown(heading)}"]
    for title, part in parts:
        text.append(f"## {title}")
        if isinstance(part, Grid):
            text.append(part.as_markdown(titled=False))
            continue
        picture = target.with_name(f"{target.stem}-{title.replace(' ', '-')}.png")
        with replacing(picture) as partial:
            partial.write_bytes(part)
        text.append(f"![{title}]({picture.name.replace(' ', '%20')})")
    return "\n\n".join([*text, f"torchbp {__version__}"]) + "\n"


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _plain(value: Any) -> Any:
    """The value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
