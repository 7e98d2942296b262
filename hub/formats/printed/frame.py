"""What stands around every page of the printed report: the band that says what it is."""

from __future__ import annotations

from reportlab.lib.colors import HexColor
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate

from hub.domain.report import ReportVersion
from hub.formats.printed import style, words
from hub.formats.report_state import standing_subtitle, standing_title

_TITLE_SIZE, _SUBTITLE_SIZE = 22.0, 9.5
_GAP = 12
_HALF_A_DIAGONAL = 430
"""Points; longer than the page is at the angle of the watermark."""


class NumberedCanvas(Canvas):  # type: ignore[misc]  # reportlab has no types
    """Says on each page how many there are, so that a missing one is noticed."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **settings)
        self._pages: list[dict[str, object]] = []

    def showPage(self) -> None:  # noqa: N802 - reportlab's name
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        for number, page in enumerate(self._pages, start=1):
            self.__dict__.update(page)
            self.setFillColor(style.MUTED)
            self.setFont(style.REGULAR, 7.4)
            right = style.PAGE_WIDTH - style.MARGIN
            text = f"Page {number} of {len(self._pages)}"
            self.drawRightString(right, style.FOOTER_HEIGHT - 12, text)
            super().showPage()
        super().save()


class Page:
    """The band at the top and the line at the foot of every page."""

    def __init__(self, institution_name: str, footer: str, version: ReportVersion) -> None:
        self._institution_name = institution_name
        self._footer = footer
        self._version = version

    def draw(self, canvas: Canvas, _: BaseDocTemplate) -> None:
        """On a page that has nothing on it yet."""
        canvas.saveState()
        if self._version.is_withdrawn:
            _strike_out(canvas)
        bottom = style.PAGE_HEIGHT - style.BAND_HEIGHT
        right = style.PAGE_WIDTH - style.MARGIN
        canvas.setFillColor(self._colour())
        canvas.rect(0, bottom, style.PAGE_WIDTH, style.BAND_HEIGHT, stroke=0, fill=1)
        canvas.setFillColor(style.WHITE)
        title = fitting(standing_title(self._version).upper())
        canvas.setFont(style.BOLD, _size_of(title, canvas))
        canvas.drawString(style.MARGIN, bottom + 28, title)
        canvas.setFont(style.REGULAR, _SUBTITLE_SIZE)
        institution = fitting(self._institution_name, 45)
        canvas.drawRightString(right, bottom + 13, institution)
        room = style.CONTENT_WIDTH - _GAP - _width(institution, canvas)
        subtitle = standing_subtitle(self._version)
        canvas.drawString(style.MARGIN, bottom + 13, _cut(subtitle, room, canvas))
        canvas.setStrokeColor(style.HAIRLINE)
        canvas.line(style.MARGIN, style.FOOTER_HEIGHT, right, style.FOOTER_HEIGHT)
        canvas.setFillColor(style.MUTED)
        canvas.setFont(style.REGULAR, 7.4)
        canvas.drawString(style.MARGIN, style.FOOTER_HEIGHT - 12, fitting(self._footer, 110))
        canvas.restoreState()

    def _colour(self) -> HexColor:
        if self._version.is_withdrawn:
            return style.WITHDRAWN
        return style.MARK if self._version.verifier is None else style.VERIFIED


def _size_of(title: str, canvas: Canvas) -> float:
    """Of the largest letters with which the title fits on one line."""
    width = float(canvas.stringWidth(title, style.BOLD, _TITLE_SIZE))
    return float(min(_TITLE_SIZE, _TITLE_SIZE * style.CONTENT_WIDTH / width))


def _width(text: str, canvas: Canvas) -> float:
    return float(canvas.stringWidth(text, style.REGULAR, _SUBTITLE_SIZE))


def _cut(text: str, room: float, canvas: Canvas) -> str:
    """As much as fits beside the name of the institution; all of it stands in a box as well."""
    limit = len(text)
    while limit > 1 and _width(fitting(text, limit), canvas) > room:
        limit -= 1
    return fitting(text, limit)


def _strike_out(canvas: Canvas) -> None:
    """Across the whole page, under what is printed on it."""
    canvas.saveState()
    canvas.setFillColor(style.WATERMARK)
    canvas.setStrokeColor(style.WATERMARK)
    canvas.setLineWidth(3)
    canvas.translate(style.PAGE_WIDTH / 2, style.PAGE_HEIGHT / 2)
    canvas.rotate(52)
    canvas.setFont(style.BOLD, 92)
    canvas.drawCentredString(0, -30, "WITHDRAWN")
    canvas.line(-_HALF_A_DIAGONAL, 60, _HALF_A_DIAGONAL, 60)
    canvas.line(-_HALF_A_DIAGONAL, -48, _HALF_A_DIAGONAL, -48)
    canvas.restoreState()


def fitting(text: str, limit: int = 60) -> str:
    """What can be printed of the text, on one line; what is cut off shows as an ellipsis."""
    shown = words.plain(text, style.has_glyph)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
