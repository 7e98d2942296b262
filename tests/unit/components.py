"""Components as an installation has them, small enough to read: for tests of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from hub.domain.delivery import DocumentKind
from hub.ports import AdapterKind, Connector


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DicomListener(_Strict):
    """Receives by C-STORE."""

    ae_title: str = "CAIDX"
    host: str = "127.0.0.1"
    port: int = Field(default=11112, ge=1, le=65535)


class DicomPeer(_Strict):
    """Sends by C-STORE."""

    host: str
    port: int
    called_ae_title: str


class Login(_Strict):
    user: str
    password: SecretStr


class FhirServer(_Strict):
    """Sends FHIR transactions."""

    url: str
    token: SecretStr | None = None
    documents: tuple[Literal[DocumentKind.FHIR], ...] = (DocumentKind.FHIR,)
    login: Login | None = None


class ResultFolder(_Strict):
    """Writes files."""

    folder: Path


class OnnxOptions(_Strict):
    """Local ONNX models."""

    threads: int = Field(default=1, ge=1)
    provider: Literal["cpu", "cuda"] = "cpu"


class VendorOptions(_Strict):
    """A vendor's service."""

    url: str


def _never(*_: Any) -> Any:
    raise AssertionError("nothing is built in tests of the configuration")


@dataclass(frozen=True)
class Installed:
    connectors: Mapping[str, Connector]
    adapters: Mapping[str, AdapterKind]


COMPONENTS = Installed(
    connectors={
        "dicom": Connector(
            source_config=DicomListener,
            build_source=_never,
            archive_config=DicomPeer,
            build_archive=_never,
            destination_config=DicomPeer,
            build_destination=_never,
            accepts=(DocumentKind.SR, DocumentKind.SEG),
        ),
        "fhir": Connector(
            destination_config=FhirServer,
            build_destination=_never,
            accepts=(DocumentKind.FHIR,),
        ),
        "folder": Connector(
            destination_config=ResultFolder,
            build_destination=_never,
            accepts=tuple(DocumentKind),
        ),
        "sink": Connector(destination_config=ResultFolder, build_destination=_never),
    },
    adapters={
        "onnx_local": AdapterKind("onnx", OnnxOptions, _never),
        "vendor_http": AdapterKind("vendor_http", VendorOptions, _never),
    },
)
