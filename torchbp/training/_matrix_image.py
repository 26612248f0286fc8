"""Draws the confusion matrix for TensorBoard, with Pillow: a hundredth of the time that matplotlib takes."""

from collections.abc import Sequence

import numpy as np

SIZE = 13  # of letters, in pixels
LONGEST = 160  # pixels of a class's name
PAPER, INK, SHADE = (255, 255, 255), (30, 30, 30), (31, 119, 180)


def matrix_image(confusion: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The confusion matrix as pixels (3, height, width): true classes down, predicted classes across; larger shares are darker.

    Args:
        confusion: the numbers of rows, (C, C).
        names: the classes' names.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(SIZE)
    texts = [[f"{count}" for count in row] for row in confusion]
    labels = [_shortened(name, font) for name in names]
    side = max(34, 12 + round(max(font.getlength(text) for row in texts for text in row)))
    left = 16 + round(max(map(font.getlength, labels)))
    image = Image.new("RGB", (left + side * len(names) + 8, left + side * len(names) + 30), PAPER)
    draw = ImageDraw.Draw(image)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    for true, row in enumerate(texts):
        top = left + side * true
        draw.text((left - 8, top + side / 2), labels[true], INK, font, "rm")
        for taken, text in enumerate(row):
            share, x = shares[true, taken], left + side * taken
            color = tuple(round(paper + (shade - paper) * share) for paper, shade in zip(PAPER, SHADE, strict=True))
            draw.rectangle((x, top, x + side, top + side), color, (215, 215, 215))
            draw.text((x + side / 2, top + side / 2), text, PAPER if share > 0.5 else INK, font, "mm")
    draw.text((8, left + side * len(names) + 8), "rows: true class, columns: taken for", INK, font)
    # The names of columns are written upwards.
    upright = Image.new("RGB", (left, side * len(names)), PAPER)
    above = ImageDraw.Draw(upright)
    for taken, label in enumerate(labels):
        above.text((8, side * taken + side / 2), label, INK, font, "lm")
    image.paste(upright.transpose(Image.Transpose.ROTATE_90), (left, 0))
    return np.asarray(image).transpose(2, 0, 1)


def _shortened(name: str, font: object) -> str:
    length = font.getlength  # type: ignore[attr-defined]
    if length(name) <= LONGEST:
        return name
    while length(f"{name}…") > LONGEST:
        name = name[:-1]
    return f"{name}…"
