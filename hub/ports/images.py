"""Images as people see them, for documents that hold pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from hub.domain.study import Instance


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """One frame, ready to be looked at: VOI LUT or window applied, 8 bits."""

    rows: int
    columns: int
    samples: int
    """1: grey (0 is black); 3: red, green, blue."""
    pixels: bytes = field(repr=False)
    """C-ordered, shape (rows, columns, samples)."""


class ImageRenderer(Protocol):
    """Reads and decodes a stored image in a process of its own: what crashes in a codec costs that
    one picture. Thread-safe."""

    def render(self, instance: Instance, frame_number: int = 1) -> RenderedImage:
        """One frame (1-based) of a stored image.

        Raises:
            RejectedError: it cannot be decoded, or is no image.
            TransientError: it took too long, or its process died.
        """
        ...
