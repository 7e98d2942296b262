"""Fonts, colours and measures of the printed report."""

from __future__ import annotations

import threading
from functools import cache
from importlib.resources import as_file, files

from reportlab.lib.colors import HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

PAGE_WIDTH, PAGE_HEIGHT = A4
MARGIN = 16 * mm
BAND_HEIGHT = 20 * mm
FOOTER_HEIGHT = 13 * mm
CONTENT_WIDTH = PAGE_WIDTH - 2 * MARGIN

INK = HexColor("#16202c")
MUTED = HexColor("#5a6777")
HAIRLINE = HexColor("#d5dbe3")
PANEL = HexColor("#f4f6f9")
MARK = HexColor("#b3400c")
"""The colour of the AI mark and of every answer that is no answer."""
WITHDRAWN = HexColor("#b00020")
"""The colour of what must not be used, and of what a person has to know at once."""
VERIFIED = HexColor("#0b6b4f")
WATERMARK = HexColor("#f6c9cf")
WHITE = HexColor("#ffffff")
CRITICAL_PANEL = HexColor("#fde7ea")
ALERT_PANEL = HexColor("#fdf0e9")

REGULAR, BOLD = "CaidxReport", "CaidxReport-Bold"

_registering = threading.Lock()


@cache
def register_fonts() -> frozenset[int]:
    """Make the embedded fonts known to reportlab; returns the code points that both have.

    Once in a process: a font that is exchanged while a page is drawn with it numbers its letters
    anew, and the page shows others.
    """
    with _registering:
        return _registered()


@cache
def _registered() -> frozenset[int]:
    fonts = []
    for name, file in ((REGULAR, "DejaVuSansCondensed"), (BOLD, "DejaVuSansCondensed-Bold")):
        with as_file(files("hub.formats.fonts") / f"{file}.ttf") as path:
            font = TTFont(name, str(path))
        pdfmetrics.registerFont(font)
        fonts.append(frozenset(font.face.charToGlyph))
    pdfmetrics.registerFontFamily(REGULAR, REGULAR, BOLD, REGULAR, BOLD)
    return fonts[0] & fonts[1]


def has_glyph(character: str) -> bool:
    return ord(character) in register_fonts()


def _style(name: str, size: float, **settings: object) -> ParagraphStyle:
    values: dict[str, object] = {
        "fontName": REGULAR,
        "fontSize": size,
        "leading": size * 1.32,
        "textColor": INK,
    }
    return ParagraphStyle(name, **{**values, **settings})


TITLE = _style("title", 19, fontName=BOLD, leading=23)
SUBTITLE = _style("subtitle", 10, textColor=MUTED, spaceAfter=8)
HEADING = _style("heading", 8, fontName=BOLD, textColor=MUTED, spaceBefore=9, spaceAfter=3)
BODY = _style("body", 9.2)
SMALL = _style("small", 7.6, textColor=MUTED)
LABEL = _style("label", 7.4, textColor=MUTED, leading=12.4)
VALUE = _style("value", 9.6, leading=12.4)
STRONG = _style("strong", 11, fontName=BOLD, leading=14)
COLUMN = _style("column", 7.6, fontName=BOLD, textColor=MUTED)
COLUMN_RIGHT = _style("column-right", 7.6, fontName=BOLD, textColor=MUTED, alignment=TA_RIGHT)
CELL = _style("cell", 9.6)
CELL_RIGHT = _style("cell-right", 11, fontName=BOLD, alignment=TA_RIGHT)
CELL_PLAIN_RIGHT = _style("cell-plain-right", 9.6, alignment=TA_RIGHT)
CELL_ALERT = _style("cell-alert", 10, fontName=BOLD, alignment=TA_RIGHT, textColor=MARK)
ALERT_TITLE = _style("alert-title", 16, fontName=BOLD, textColor=MARK, leading=20)
CRITICAL_TITLE = _style("critical", 14, fontName=BOLD, textColor=WITHDRAWN, leading=18)
ALERT_TEXT = _style("alert-text", 10.2, leading=14)
