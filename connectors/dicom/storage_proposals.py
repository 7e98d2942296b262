"""Which presentation contexts we propose where a peer is to send us objects (C-GET).

An association has room for 128 contexts (PS3.8 9.3.2.2), and of each the peer accepts one
transfer syntax: objects of one class in two transfer syntaxes need two contexts. So every class
gets contexts of one transfer syntax each, as many as there is room for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from connectors.dicom.storage_classes import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES

Proposal = tuple[str, tuple[str, ...]]
"""Abstract syntax and transfer syntaxes of one context."""

_ROOM = 127
"""128, less the one of C-GET itself."""
_ROOM_OF_LIKELY = 64
_TOGETHER = 16
"""Transfer syntaxes in one context, where a class has no room for one each: 127 classes with all
syntaxes would make an association request of 200 KB."""
_FIRST = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.5",  # RLE Lossless
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless (process 14)
    "1.2.840.10008.1.2.4.201",  # HTJ2K Lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K Lossless with RPCL
    "1.2.840.10008.1.2.4.203",  # HTJ2K
)
_REFERENCED = frozenset(
    {
        "1.2.840.10008.1.2.4.94",  # JPIP Referenced
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.204",  # JPIP HTJ2K Referenced
        "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
        "1.2.840.10008.1.2.7.1",  # SMPTE ST 2110-20, progressive
        "1.2.840.10008.1.2.7.2",  # SMPTE ST 2110-20, interlaced
        "1.2.840.10008.1.2.7.3",  # SMPTE ST 2110-30
    }
)
"""Their pixels are somewhere else: what is fetched in them holds none."""
LIKELY_SYNTAXES = tuple(
    syntax for syntax in dict.fromkeys((*_FIRST, *TRANSFER_SYNTAXES)) if syntax not in _REFERENCED
)
"""What an archive may hold, the likeliest first."""

_IMAGE = "1.2.840.10008.5.1.4.1.1."
_SECONDARY_CAPTURE = ("7", "7.1", "7.2", "7.3", "7.4")
_DOCUMENTS = ("11.1", "66.4", "88.11", "88.22", "88.33", "88.34", "88.59", "88.67", "104.1")
_LIKELY_CLASSES: Mapping[str, tuple[str, ...]] = {
    "CR": ("1", "1.1"),
    "CT": ("2", "2.1", "2.2", "7"),
    "DX": ("1.1", "1.1.1", "1"),
    "ECG": ("9.1.1", "9.1.2", "9.1.3"),
    "MG": ("1.2", "1.2.1", "13.1.3", "13.1.4"),
    "MR": ("4", "4.1", "4.4", "7"),
    "NM": ("20", "7"),
    "OT": _SECONDARY_CAPTURE,
    "PT": ("128", "128.1", "130", "7"),
    "RF": ("12.2", "12.2.1", "12.1"),
    "SC": _SECONDARY_CAPTURE,
    "SM": ("77.1.6",),
    "US": ("6.1", "3.1", "6.2", "7"),
    "XA": ("12.1", "12.1.1", "12.2"),
}
"""Modality (0008,0060) -> the ends of the Storage SOP Class UIDs that it makes (PS3.4 B.5)."""


def proposals(kinds: Mapping[str, Collection[str]]) -> list[Proposal]:
    """Contexts for objects of these SOP classes.

    Args:
        kinds: SOP Class UID -> the transfer syntaxes that they are known to be available in.
    """
    classes = list(kinds)[:_ROOM]
    each = _ROOM // len(classes) if classes else 0
    return [one for uid in classes for one in _of_class(uid, kinds[uid], each)]


def proposals_for(modalities: Iterable[str]) -> list[Proposal]:
    """Contexts for objects of which no more is known than their modalities: most of them for the
    classes that these make, one for each of the others while there is room."""
    likely = dict.fromkeys(
        _IMAGE + end for modality in modalities for end in _LIKELY_CLASSES.get(modality, ())
    )
    documents = (_IMAGE + end for end in (*_DOCUMENTS, *_SECONDARY_CAPTURE))
    others = dict.fromkeys((*documents, *STORAGE_SOP_CLASSES))
    each = max(_ROOM_OF_LIKELY // len(likely), 1) if likely else 0
    found = [one for uid in likely for one in _of_class(uid, (), each)]
    found += [one for uid in others if uid not in likely for one in _of_class(uid, (), 1)]
    return found[:_ROOM]


def without_first(proposed: Sequence[Proposal], accepted: Iterable[Any]) -> list[Proposal]:
    """What is left to propose when, of each class, the first accepted context was of no use.

    ``accepted`` are pynetdicom's contexts, in their order.
    """
    first: dict[str, str] = {}
    for context in accepted:
        first.setdefault(str(context.abstract_syntax), str(context.transfer_syntax[0]))
    return [
        (uid, syntaxes)
        for uid, offered in proposed
        if (syntaxes := tuple(syntax for syntax in offered if syntax != first.get(uid)))
    ]


def _of_class(uid: str, known: Collection[str], room: int) -> list[Proposal]:
    syntaxes = list(dict.fromkeys((*sorted(set(known) - _REFERENCED), *LIKELY_SYNTAXES)))
    if len(syntaxes) <= room:
        return [(uid, (syntax,)) for syntax in syntaxes]
    alone, rest = syntaxes[: room - 1], syntaxes[room - 1 :]
    return [*((uid, (syntax,)) for syntax in alone), (uid, tuple(rest[:_TOGETHER]))]
