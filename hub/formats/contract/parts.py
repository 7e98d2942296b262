"""What the messages of the published contract are made of (docs/contract).

Every limit is part of the published schemas. Texts hold no control characters but tab and line
breaks, numbers are finite.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from hub.domain.coding import Code
from hub.domain.inference import ModelKey

CONTRACT_VERSION: Final = "1.0"
"""What this hub sends, and the highest version that it reads."""

Uid = Annotated[str, Field(max_length=64, pattern=r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+$")]
"""A DICOM UID (PS3.5 section 9.1) that somebody makes now."""
GivenUid = Annotated[str, Field(max_length=128, pattern=r"^[!-~]*$")]
"""A DICOM UID as the hospital's objects have it: old ones break the rules, and are said back as
they are."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_PRINTABLE = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\x7F]*$"
Name = Annotated[str, Field(max_length=256, pattern=_PRINTABLE)]
FilledName = Annotated[str, Field(min_length=1, max_length=256, pattern=_PRINTABLE)]
Sentence = Annotated[str, Field(min_length=1, max_length=2000, pattern=_PRINTABLE)]
Statement = Annotated[str, Field(max_length=2000, pattern=_PRINTABLE)]
Sentences = Annotated[tuple[Sentence, ...], Field(max_length=50)]
FrameNumber = Annotated[int, Field(ge=1, le=65536)]
ResourceId = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,64}$")]
"""`id` of a FHIR resource (R4 datatypes)."""
SegmentNumber = Annotated[int, Field(ge=1, le=255)]


class Lenient(BaseModel):
    """A message to a vendor, or a part of one: later versions may add fields."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="ignore",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Strict(BaseModel):
    """A message from a vendor, or a part of one: a field that is not known is refused, for a
    misspelt one would be an answer that nobody reads."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class CodeMessage(Strict):
    """A coded concept: the triplet of PS3.3 Table 8.8-1."""

    value: str = Field(min_length=1, max_length=64, pattern=r"^[!-~]+( [!-~]+)*$")
    """(0008,0100) Code Value, e.g. `39607008`."""
    scheme: str = Field(min_length=1, max_length=16, pattern=r"^[!-~]+$")
    """(0008,0102) Coding Scheme Designator: `SCT`, `LN`, `UCUM`, `DCM`, `RADLEX`, or a private one
    that begins with `99`."""
    meaning: FilledName
    """(0008,0104) Code Meaning, for people."""

    @classmethod
    def of(cls, code: Code) -> CodeMessage:
        """From the domain."""
        return cls(
            value=code.code_value, scheme=code.coding_scheme_designator, meaning=code.code_meaning
        )

    def domain(self) -> Code:
        """To the domain."""
        return Code(self.value, self.scheme, self.meaning)


class ModelMessage(Strict):
    """The model that answered."""

    id: FilledName
    """As in the manifest."""
    version: FilledName
    """As in the manifest."""
    sha256: Sha256 | None = None
    """That of the request; it may be left out."""

    @classmethod
    def of(cls, key: ModelKey) -> ModelMessage:
        """From the domain."""
        return cls(id=key.model_id, version=key.version, sha256=key.sha256)


def optional_code(code: Code | None) -> CodeMessage | None:
    """From the domain, where there may be none."""
    return None if code is None else CodeMessage.of(code)


def optional_domain(code: CodeMessage | None) -> Code | None:
    """To the domain, where there may be none."""
    return None if code is None else code.domain()
