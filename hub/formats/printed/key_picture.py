"""Pictures for people, drawn with Pillow: an image with what was found on it, or a card of words.

Every picture has the same size, begins with a band that says what it is, and has no name on it.
The same input gives the same bytes: the fonts are the hub's own, laid out by Pillow itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hub.domain.finding import GraphicType
from hub.formats.printed.picture_text import draw_text, fitting, font_of, lines_of
from hub.ports import RenderedImage

WIDTH, HEIGHT = 1024, 1152
"""Of every picture, in pixels."""

MOST_CARDS = 8

Colour = tuple[int, int, int]
MARK: Colour = (179, 64, 12)
WITHDRAWN: Colour = (176, 0, 32)
CRITICAL: Colour = (200, 16, 46)
CRITICAL_GRAPHIC: Colour = (255, 69, 58)
"""The same, bright enough for a line on a grey image."""
NOTICE: Colour = (122, 82, 0)

_BACKGROUND: Colour = (16, 20, 26)
_INK: Colour = (236, 240, 245)
_MUTED: Colour = (160, 170, 182)
_BAND, _LINE, _LEGEND_LINE, _FOOTER, _MARGIN = 118, 44, 32, 34, 20
_MOST_LEGEND_LINES = 8
_MOST_STRIPES = 3
"""Lines that one statement above the image takes at most."""
_ELLIPSE_POINTS = 72
_DARKEST_OUTLINE = 90
"""Outlines in darker colours are made lighter: they lie on dark images."""
_LABEL = 28
"""Height of a label, in pixels."""
_MARKER = 7
"""Half the size of a point's cross, in pixels."""

Mask = npt.NDArray[np.bool_]
"""(row, column) of the image."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around every picture."""

    title: str
    """In the band at the top, in capitals."""
    subtitle: str
    model: str
    colour: Colour
    """Of the band."""
    stripes: tuple[tuple[str, Colour], ...] = ()
    """Below the band: what must not be overlooked."""
    footer: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """A graphic of one finding."""

    graphic_type: GraphicType
    points: tuple[tuple[float, float], ...]
    """(column, row) in pixels of the image; 0, 0 is the outer corner of the first one."""
    colour: Colour
    label: str


@dataclass(frozen=True, slots=True)
class Outline:
    """The border of a segment."""

    mask: Mask = field(repr=False)
    colour: Colour


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the legend or of a card."""

    text: str
    colour: Colour | None = None
    """Of the square before it; None: there is none."""
    is_heading: bool = False


def picture(
    image: RenderedImage,
    frame: Frame,
    *,
    aspect: float = 1.0,
    outlines: Sequence[Outline] = (),
    shapes: Sequence[Shape] = (),
    legend: Sequence[Line] = (),
) -> bytes:
    """An image with its graphics, and below it what they mean. RGB, 8 bits, row by row.

    Args:
        aspect: height of a pixel of the image as a multiple of its width.
    """
    canvas, draw, top = _framed(frame)
    shown = list(legend[:_MOST_LEGEND_LINES])
    if len(legend) > len(shown):
        shown[-1] = Line(f"… and {len(legend) - len(shown) + 1} more: see the report")
    bottom = HEIGHT - _FOOTER - _LEGEND_LINE * len(shown) - 12
    place = _Place.fitting(image, aspect, (0, top, WIDTH, bottom))
    canvas.paste(_as_pillow(image).resize(place.size, Image.Resampling.BICUBIC), place.corner)
    for outline in outlines:
        _draw_outline(canvas, outline, place)
    for shape in shapes:
        _draw_shape(draw, shape, place)
    taken: list[_Label] = []
    for shape in shapes:
        taken.append(_draw_label(draw, shape, place, taken))
    for number, line in enumerate(shown):
        _draw_line(draw, line, bottom + 10 + _LEGEND_LINE * number, 20)
    return canvas.tobytes()


def cards(lines: Sequence[Line], frame: Frame) -> list[bytes]:
    """Lines of words, on as many pictures as they need; of very many only the first, and that
    there are more."""
    left = [part for line in lines for part in _wrapped(line)]
    pages: list[bytes] = []
    while left or not pages:
        canvas, draw, at = _framed(frame)
        room = HEIGHT - _FOOTER - at - 18
        fitted, left = _that_fit(left, room, is_last=len(pages) + 1 == MOST_CARDS)
        at += 18
        for line in fitted:
            _draw_line(draw, line, at, _card_size(line))
            at += _step(line)
        pages.append(canvas.tobytes())
    return pages


def _that_fit(lines: list[Line], room: int, *, is_last: bool) -> tuple[list[Line], list[Line]]:
    """The lines of one card, and those for the next ones."""
    count = 0
    while count < len(lines) and (room := room - _step(lines[count])) >= 0:
        count += 1
    fitted, left = lines[:count], lines[count:]
    if not (left and is_last):
        return fitted, left
    return [*fitted[:-1], Line(f"… and {len(left) + 1} more lines: see the report")], []


# --- the frame ---------------------------------------------------------------------------


def _framed(frame: Frame) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """An empty picture, and the row below its band and stripes."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, WIDTH, _BAND - 1), fill=frame.colour)
    draw_text(draw, (_MARGIN, 10), frame.title.upper(), 38, bold=True, width=WIDTH - 2 * _MARGIN)
    draw_text(draw, (_MARGIN, 56), frame.subtitle, 22, width=WIDTH - 2 * _MARGIN)
    draw_text(draw, (_MARGIN, 86), frame.model, 18, width=WIDTH - 2 * _MARGIN)
    top = _BAND
    for words, colour in frame.stripes:
        parts = lines_of(words, 22, WIDTH - 2 * _MARGIN, bold=True)
        if len(parts) > _MOST_STRIPES:
            parts = [*parts[: _MOST_STRIPES - 1], "… and more: see the report"]
        for part in parts:
            draw.rectangle((0, top, WIDTH, top + _LINE - 2), fill=colour)
            draw_text(draw, (_MARGIN, top + 8), part, 22, bold=True, width=WIDTH)
            top += _LINE
    draw_text(
        draw,
        (_MARGIN, HEIGHT - _FOOTER + 6),
        frame.footer,
        16,
        colour=_MUTED,
        width=WIDTH - 2 * _MARGIN,
    )
    return canvas, draw, top


# --- the image ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the image lies on the picture."""

    corner: tuple[int, int]
    size: tuple[int, int]
    """Width and height."""
    scale: tuple[float, float]
    """Pixels of the picture for each column, for each row."""

    @classmethod
    def fitting(cls, image: RenderedImage, aspect: float, box: tuple[int, int, int, int]) -> _Place:
        """As large as fits into (left, top, right, bottom), in the middle."""
        left, top, right, bottom = box
        scale = min((right - left) / image.columns, (bottom - top) / (image.rows * aspect))
        width = max(1, round(image.columns * scale))
        height = max(1, round(image.rows * aspect * scale))
        corner = (left + (right - left - width) // 2, top + (bottom - top - height) // 2)
        return cls(corner, (width, height), (width / image.columns, height / image.rows))

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        """A point of the image on the picture."""
        return (
            self.corner[0] + point[0] * self.scale[0],
            self.corner[1] + point[1] * self.scale[1],
        )


def _as_pillow(image: RenderedImage) -> Image.Image:
    mode = "L" if image.samples == 1 else "RGB"
    made = Image.frombytes(mode, (image.columns, image.rows), image.pixels)
    return made.convert("RGB")


def _draw_outline(canvas: Image.Image, outline: Outline, place: _Place) -> None:
    """The inner border of the mask, two pixels wide, at the size of the picture."""
    flat = Image.fromarray(outline.mask.astype(np.uint8) * 255)
    # BOX keeps what is smaller than a pixel of the picture, and repeats what is larger
    scaled = np.asarray(flat.resize(place.size, Image.Resampling.BOX)) > 0
    padded = np.pad(scaled, 2)
    height, width = scaled.shape
    inner = scaled.copy()
    for down in range(5):
        for across in range(5):
            inner &= padded[down : down + height, across : across + width]
    border = Image.fromarray((scaled & ~inner).astype(np.uint8) * 255)
    canvas.paste(_lightened(outline.colour), (*place.corner,), border)


def _draw_shape(draw: ImageDraw.ImageDraw, shape: Shape, place: _Place) -> None:
    points = [place.at(point) for point in shape.points]
    colour = _lightened(shape.colour)
    if shape.graphic_type in (GraphicType.POINT, GraphicType.MULTIPOINT):
        for x, y in points:
            draw.line((x - _MARKER, y, x + _MARKER, y), fill=colour, width=3)
            draw.line((x, y - _MARKER, x, y + _MARKER), fill=colour, width=3)
        return
    if shape.graphic_type is GraphicType.CIRCLE:
        points = [place.at(point) for point in _circle(shape.points)]
    elif shape.graphic_type is GraphicType.ELLIPSE:
        points = [place.at(point) for point in _ellipse(shape.points)]
    draw.line(points, fill=colour, width=3, joint="curve")


def _circle(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of the centre and a point of the perimeter (PS3.3 C.18.6.1.1), in pixels of the image."""
    (x, y), (on_x, on_y) = points
    radius = float(np.hypot(on_x - x, on_y - y))
    return _ellipse([(x - radius, y), (x + radius, y), (x, y - radius), (x, y + radius)])


def _ellipse(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of the ends of the major axis, then of the minor one."""
    ends = np.array(points, float)
    centre, major, minor = ends[:2].mean(axis=0), ends[1] - ends[0], ends[3] - ends[2]
    angles = np.linspace(0.0, 2 * np.pi, _ELLIPSE_POINTS)[:, None]
    around = centre + np.cos(angles) * major / 2 + np.sin(angles) * minor / 2
    return [(float(x), float(y)) for x, y in around]


_Label = tuple[float, float, float]
"""Left, right and top of a label on the picture."""


def _draw_label(
    draw: ImageDraw.ImageDraw, shape: Shape, place: _Place, taken: Sequence[_Label]
) -> _Label:
    """Beside the graphic, within the image, not on the labels that are there; where it is."""
    drawn = shape.points
    if shape.graphic_type is GraphicType.CIRCLE:
        drawn = tuple(_circle(shape.points))
    points = np.array([place.at(point) for point in drawn])
    font = font_of(22, bold=True)
    words = fitting(shape.label, font, WIDTH - 2 * _MARGIN)
    width = font.getlength(words)
    x = max(min(float(points[:, 0].max()) + 8, WIDTH - _MARGIN - width), _MARGIN)
    beside = [top for left, right, top in taken if left < x + width and x < right]
    highest, lowest = place.corner[1] + 4, place.corner[1] + place.size[1] - 30
    wanted = min(max(float(points[:, 1].min()) - _LABEL, highest), lowest)
    y = _free_row(wanted, beside, highest, lowest)
    draw.text(
        (x, y),
        words,
        font=font,
        fill=_lightened(shape.colour),
        stroke_width=2,
        stroke_fill=(0, 0, 0),
    )
    return x, x + width, y


def _free_row(wanted: float, taken: Sequence[float], highest: float, lowest: float) -> float:
    """The row nearest to the one that is wanted where no label lies; that one where there is no
    other."""
    steps = range(1, int((lowest - highest) // _LABEL) + 1)
    rows = [wanted, *(wanted + sign * step * _LABEL for step in steps for sign in (1, -1))]
    free = (
        row
        for row in rows
        if highest <= row <= lowest and all(abs(row - other) >= _LABEL for other in taken)
    )
    return next(free, wanted)


# --- words -------------------------------------------------------------------------------


def _draw_line(draw: ImageDraw.ImageDraw, line: Line, top: int, size: int) -> None:
    left = _MARGIN
    if line.colour is not None:
        draw.rectangle(
            (left, top + 4, left + size - 2, top + size + 2), fill=_lightened(line.colour)
        )
        left += size + 10
    colour = _INK
    draw_text(
        draw,
        (left, top),
        line.text,
        size,
        bold=line.is_heading,
        colour=colour,
        width=WIDTH - _MARGIN - left,
    )


def _card_size(line: Line) -> int:
    return 34 if line.is_heading else 25


def _step(line: Line) -> int:
    return _card_size(line) + 15


def _wrapped(line: Line) -> list[Line]:
    size = _card_size(line)
    parts = lines_of(line.text, size, WIDTH - 3 * _MARGIN - size, bold=line.is_heading)
    first, *others = parts or [""]
    return [
        Line(first, line.colour, line.is_heading),
        *(Line(part, None, line.is_heading) for part in others),
    ]


def _lightened(colour: Colour) -> Colour:
    """The colour, bright enough to be seen on a dark image."""
    brightest = max(colour)
    if brightest >= _DARKEST_OUTLINE:
        return colour
    red, green, blue = (min(255, c + _DARKEST_OUTLINE) for c in colour)
    return red, green, blue
