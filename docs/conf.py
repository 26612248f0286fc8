"""Sphinx's settings. Formulas become MathML, so the pages need no internet, neither to build nor to read."""

from contextlib import chdir
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import torchbp
from torchbp.cli import main

project = "torchbp"
author = "the torchbp authors"
version = release = torchbp.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns: list[str] = []
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # Lightning's and PyTorch's link to their own pages
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
napoleon_use_rtype = False
napoleon_use_ivar = True

WIDE = ("what_passes", "published", "speed", "unknown_g", "recurrent")  # pages with wide tables or code
html_theme = "pydata_sphinx_theme"
html_title = f"torchbp {release}"
html_static_path = ["_static"]
html_css_files = ["torchbp.css"]
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "navbar_align": "left",
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "header_links_before_dropdown": 5,
    "secondary_sidebar_items": {"**": ["page-toc"], **{page: [] for page in WIDE}},
}
html_sidebars = {page: [] for page in ("index", "text", "own_function", "table", "gallery", "api")}  # no pages beneath them
copyright = author


def inline(translator: Any, node: nodes.math) -> None:
    """A formula in a sentence."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """A formula on a line of its own."""
    translator.body.append(f'<div class="equation">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def skip(app: Sphinx, what: str, name: str, thing: object, skipped: bool, options: object) -> bool | None:
    """Leaves out the methods that scikit-learn adds to estimators."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def as_text(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Escapes the asterisk of a shape such as (*, n), which would begin emphasis."""
    lines[:] = [line.replace("(*", r"(\*") for line in lines]


def interactive(app: Sphinx, exception: Exception | None) -> None:
    """Writes the page that text.md shows, with the iteration that it works by hand, in English and Chinese."""
    given = ["--weights", "configs/weights/by_hand.yaml", "--x", "1,0.5", "--y", "1", "--lr", "0.5"]
    with chdir(Path(__file__).parents[1]):
        for lang in ("en", "zh"):
            if main(["trace", *given, "--lang", lang, "--html", str(Path(app.outdir) / f"trace-{lang}.html")]):
                raise RuntimeError("the page of torchbp trace was not made")


def setup(app: Sphinx) -> None:
    app.connect("build-finished", interactive)
    app.connect("autodoc-process-docstring", as_text)
    app.connect("autodoc-skip-member", skip)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
