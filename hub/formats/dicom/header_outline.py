"""Walk the headers of objects that are alike: what is the same again is compared, not read.

The headers of a series differ in a few elements: UIDs, numbers, positions, times. All between two
of them is the same bytes in every object, and so are the elements that those bytes hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from hub.formats.dicom.elements import BEFORE_ALL, Encoding, Walker
from hub.ports import Buffer

_LONGEST_HEADER = 1 << 16
_FEWEST_ELEMENTS = 8


@dataclass(frozen=True, slots=True)
class _Run:
    """Elements that were the same in all objects so far, and the one behind them that was not."""

    encoded: bytes
    found: dict[int, bytes]
    """The wanted ones."""
    last: int
    """Tag of the last one; of the one before, where there is none."""
    varying: int | None
    """Tag of what follows; None behind the last run."""


class HeaderOutline:
    """What the headers of one transfer look like, one after another; for one thread.

    It is learned from any two objects in a row that have the same elements, and only tells where
    to look: an object that is not as it says is walked as if there were no outline.
    """

    __slots__ = ("_encoding", "_header", "_runs", "_spans", "_varying")

    def __init__(self) -> None:
        self._encoding: Encoding | None = None
        self._header = b""
        self._spans: list[tuple[int, int, int]] = []
        self._varying: set[int] = set()
        self._runs: list[_Run] = []

    def walk(
        self, data: Buffer, encoding: Encoding, wanted: frozenset[int], warnings: list[str]
    ) -> dict[int, bytes]:
        """The same as `hub.formats.dicom.elements.walk` gives; ``wanted`` is the same each time.

        Raises:
            RejectedError: as there.
        """
        if self._runs and encoding == self._encoding:
            found = self._follow(data, encoding, wanted)
            if found is not None:
                return found
        walker, noted = Walker(data), list[str]()
        walker.spans = []
        found = walker.top_level(encoding, wanted, noted)
        warnings.extend(noted)
        if not noted and walker.position <= _LONGEST_HEADER:
            header = bytes(data[: walker.position])
            self._learn(header, walker.spans, encoding, found)
        return found

    def _follow(
        self, data: Buffer, encoding: Encoding, wanted: frozenset[int]
    ) -> dict[int, bytes] | None:
        """None where the header is not as expected."""
        walker, found, noted = Walker(data), dict[int, bytes](), list[str]()
        for run in self._runs:
            start, end = walker.position, walker.position + len(run.encoded)
            if bytes(data[start:end]) != run.encoded:
                return None
            found.update(run.found)
            walker.position = end
            if run.varying is None:
                found |= walker.top_level(encoding, wanted, noted, previous=run.last)
            else:
                found |= walker.top_level(
                    encoding, wanted, noted, previous=run.last, last=run.varying
                )
                if walker.position == end:
                    return None
        return None if noted else found

    def _learn(
        self,
        header: bytes,
        spans: list[tuple[int, int, int]],
        encoding: Encoding,
        found: dict[int, bytes],
    ) -> None:
        before, self._header = self._header, header
        old, self._spans = self._spans, spans
        self._runs = []
        alike = encoding == self._encoding and [s[0] for s in old] == [s[0] for s in spans]
        self._encoding = encoding
        if not alike:
            self._varying = set()
            return
        if len(spans) < _FEWEST_ELEMENTS:
            return
        self._varying |= {
            tag
            for (tag, start, end), (_, was_from, was_to) in zip(spans, old, strict=True)
            if header[start:end] != before[was_from:was_to]
        }
        self._split(found)

    def _split(self, found: dict[int, bytes]) -> None:
        """Make the runs between those that vary."""
        begin, last, same = 0, BEFORE_ALL, dict[int, bytes]()
        for tag, start, end in self._spans:
            if tag in self._varying:
                self._runs.append(_Run(self._header[begin:start], same, last, tag))
                begin, same = end, {}
            elif tag in found:
                same[tag] = found[tag]
            last = tag
        self._runs.append(_Run(self._header[begin:], same, last, None))
