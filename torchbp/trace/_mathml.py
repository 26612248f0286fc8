"""Converts formulas to MathML, which browsers render."""

import ast
import re
from collections.abc import Mapping

from torchbp.trace._formula import ATOM, PRODUCT, Plain, set_by

__all__ = ["mathml"]

SIGNS = {"-": "−", "<": "&lt;", ">": "&gt;"}


def mathml(formula: str, words: Mapping[str, str] | None = None) -> str:
    """The content of a ``<math>`` element. ``words`` translates "row", "rows", "if" and "else".

    >>> mathml("A - Y")
    '<mi>A</mi> <mo>−</mo> <mi>Y</mi>'
    """
    return set_by(_MathML(words or {}), formula)


class _MathML(Plain):
    """Writes a formula as MathML."""

    sigma, times, dot, gap = "<mo>∑</mo>", "<mo>⊙</mo>", "<mo>·</mo>", '<mspace width="0.17em"/>'
    mean = f"<mfrac><mn>1</mn><mi>m</mi></mfrac>{sigma}"

    def __init__(self, words: Mapping[str, str]) -> None:
        self.words = words
        self.over_row, self.over_rows = (
            f"<munder>{self.sigma}<mtext>{words.get(of, of)}</mtext></munder>" for of in ("row", "rows")
        )

    def bare(self, text: str) -> str:
        return re.sub("<[^>]*>", "", text)

    def name(self, name: str) -> str:
        base, number, index = re.fullmatch(r"([^\W\d_]+)(\d*)_?(\w*)", name).groups()  # type: ignore[union-attr]
        letter = f"<mi>{'π' if name == 'pi' else base}</mi>"
        below = (f"<mn>{number}</mn>" if number else "") + (f"<mi>{index}</mi>" if index else "")
        return _element("msub", letter, below) if below else letter

    def number(self, digits: str) -> str:
        return f"<mn>{digits}</mn>"

    def operator(self, sign: str) -> str:
        return f"<mo>{SIGNS.get(sign, sign)}</mo>"

    def separator(self, sign: str) -> str:
        return f"<mo>{sign.strip()}</mo>" if sign else ""

    def brackets(self, text: str) -> str:
        return f"<mrow><mo>(</mo>{text}<mo>)</mo></mrow>"

    def square(self, text: str) -> str:
        return f"<mrow><mo>[</mo>{text}<mo>]</mo></mrow>"

    def word(self, word: str) -> str:
        return f"<mtext>\N{NO-BREAK SPACE}{self.words.get(word, word)}\N{NO-BREAK SPACE}</mtext>"

    def cases(self, cases: list[str]) -> str:
        rows = "".join(f"<mtr><mtd>{case}</mtd></mtr>" for case in cases)
        return f"<mrow><mo>{{</mo><mtable>{rows}</mtable></mrow>"

    def function(self, name: str) -> str:
        return f"<mi>{name}</mi>"

    def quotient(self, top: ast.expr, bottom: ast.expr) -> tuple[str, int]:
        return _element("mfrac", self.part(top)[0], self.part(bottom)[0]), PRODUCT

    def transposed(self, node: ast.expr) -> str:
        text = self.within(node, ATOM)
        return _element("msup", self.brackets(text) if isinstance(node, ast.Call) else text, "<mi>T</mi>")

    def derivative(self, node: ast.expr) -> str:
        return self.partial("<mi>L</mi>", self.part(node)[0])

    def partial(self, of: str, by: str) -> str:
        return _element("mfrac", f"<mo>∂</mo>{of}", f"<mo>∂</mo>{by}")

    def power(self, base: ast.expr, exponent: ast.expr) -> str:
        return _element("msup", self.within(base, ATOM), self.part(exponent)[0])

    def exponential(self, exponent: ast.expr) -> str:
        return _element("msup", "<mi>e</mi>", self.part(exponent)[0])

    def root(self, node: ast.expr) -> str:
        return _element("msqrt", self.part(node)[0])

    def absolute(self, node: ast.expr) -> str:
        return f"<mrow><mo>|</mo>{self.part(node)[0]}<mo>|</mo></mrow>"


def _element(name: str, *children: str) -> str:
    return f"<{name}>{''.join(f'<mrow>{child}</mrow>' for child in children)}</{name}>"
