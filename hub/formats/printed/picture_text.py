"""Words in pictures, in the fonts of the printed report."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from typing import Any

from PIL import ImageDraw, ImageFont

from hub.formats.printed.style import has_glyph
from hub.formats.printed.words import plain


def lines_of(words: str, size: int, width: int, *, bold: bool = False) -> list[str]:
    """Words in lines of at most ``width`` pixels; what has no space is broken anywhere."""
    font, lines, current = font_of(size, bold=bold), [], ""
    for word in plain(words, has_glyph).split():
        joined = f"{current} {word}".strip()
        if font.getlength(joined) <= width:
            current = joined
            continue
        if current:
            lines.append(current)
        while font.getlength(word) > width:
            cut = max(1, int(len(word) * width / font.getlength(word)))
            lines.append(word[:cut])
            word = word[cut:]  # noqa: PLW2901 - its rest
        current = word
    return [*lines, current] if current else lines


def draw_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    words: str,
    size: int,
    *,
    bold: bool = False,
    colour: tuple[int, int, int] = (255, 255, 255),
    width: float,
) -> None:
    """One line, cut off at ``width`` pixels."""
    font = font_of(size, bold=bold)
    draw.text(at, fitting(words, font, width), font=font, fill=colour)


def fitting(words: str, font: Any, width: float) -> str:
    """What can be printed of the words, on one line of at most ``width`` pixels."""
    shown = plain(words, has_glyph)
    if font.getlength(shown) <= width:
        return shown
    while shown and font.getlength(f"{shown}…") > width:
        shown = shown[:-1]
    return f"{shown.rstrip()}…"


@lru_cache(maxsize=16)
def font_of(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The hub's own font, laid out by Pillow itself."""
    name = "DejaVuSansCondensed-Bold.ttf" if bold else "DejaVuSansCondensed.ttf"
    data = BytesIO((files("hub.formats.fonts") / name).read_bytes())
    return ImageFont.truetype(data, size, layout_engine=ImageFont.Layout.BASIC)
