"""Configuration, tables and statuses of the DICOM connector."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.presentation import AllStoragePresentationContexts

from connectors.dicom import CONNECTOR
from connectors.dicom.config import DicomDestinationConfig, DicomSourceConfig
from connectors.dicom.source import DicomSource
from connectors.dicom.status import Verdict, error_comment, verdict_of
from connectors.dicom.storage_classes import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from hub.domain.delivery import DICOM_KINDS, DocumentKind
from hub.errors import ConfigError, RejectedError
from tests.contracts.recording import RecordingIntake


def test_the_defaults_listen_on_loopback_only() -> None:
    config = DicomSourceConfig()
    assert (config.ae_title, config.host, config.port) == ("CAIDX", "127.0.0.1", 11112)


@pytest.mark.parametrize("title", ["", " ", " X", "X ", "A\\B", "A" * 17, "Ä", "A\nB", "A\0"])
def test_an_ae_title_that_is_none_is_refused(title: str) -> None:
    with pytest.raises(ValidationError):
        DicomSourceConfig(ae_title=title)


@pytest.mark.parametrize("title", ["A", "A B", "CAIDX-HUB_1", "A" * 16])
def test_an_ae_title_is_taken(title: str) -> None:
    assert DicomSourceConfig(ae_title=title).ae_title == title


@pytest.mark.parametrize("field", [{"prot": 1}, {"port": 0}, {"port": 65536}])
def test_a_wrong_field_is_refused(field: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        DicomSourceConfig.model_validate(field)
    with pytest.raises(ValidationError):
        DicomDestinationConfig.model_validate({"ae_title": "A", "host": "h", **field})


def test_a_storage_class_that_nobody_knows_is_a_configuration_error() -> None:
    config = DicomSourceConfig(storage_sop_classes=("1.2.3.4.5",))
    with pytest.raises(ConfigError, match="additional_sop_classes"):
        DicomSource(config, RecordingIntake().context())


def test_lossless_syntaxes_are_preferred_and_none_is_missing() -> None:
    assert TRANSFER_SYNTAXES[0] == "1.2.840.10008.1.2.1"
    assert len(TRANSFER_SYNTAXES) == len(set(TRANSFER_SYNTAXES)) > 45
    for wanted in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.53"):
        assert wanted in TRANSFER_SYNTAXES
    assert TRANSFER_SYNTAXES.index("1.2.840.10008.1.2.4.90") < TRANSFER_SYNTAXES.index(
        "1.2.840.10008.1.2.4.50"
    )


def test_the_tables_are_those_of_the_libraries() -> None:
    known = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    assert len(STORAGE_SOP_CLASSES) == len(set(STORAGE_SOP_CLASSES))
    assert set(STORAGE_SOP_CLASSES) == known
    retired_jpeg = {f"1.2.840.10008.1.2.4.{number}" for number in range(52, 67)}
    assert set(TRANSFER_SYNTAXES) == {*map(str, ALL_TRANSFER_SYNTAXES), *retired_jpeg}


@pytest.mark.parametrize(
    ("settings", "rejects"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "pacs.example.org"}, True),
        ({"host": "0.0.0.0", "unknown_callers": "accept"}, False),
        ({"unknown_callers": "reject"}, True),
    ],
)
def test_beyond_loopback_unknown_callers_are_rejected_by_default(
    settings: dict[str, str], rejects: bool
) -> None:
    assert DicomSourceConfig.model_validate(settings).rejects_unknown_callers is rejects


@pytest.mark.parametrize("network", ["10.0.0.0/33", "example.org", "10.1.2.3/8"])
def test_a_network_that_is_none_is_refused(network: str) -> None:
    with pytest.raises(ValidationError):
        DicomSourceConfig.model_validate({"allowed_addresses": [network]})


def test_every_status_has_a_verdict() -> None:
    verdicts = {status: verdict_of(status) for status in range(0x10000)}
    assert [status for status, verdict in verdicts.items() if verdict is Verdict.STORED] == [0]
    assert verdicts[0xB123] is Verdict.STORED_WITH_WARNING
    assert verdicts[0xA7FF] is Verdict.TRY_AGAIN
    assert verdicts[0xCFFF] is Verdict.REFUSED


def test_an_error_comment_fits_its_element() -> None:
    comment = error_comment(RejectedError("Ärger\\mit\nvielen " + "x" * 100))
    assert comment.isascii()
    assert len(comment) == 64
    assert "\\" not in comment
    assert "\n" not in comment


def test_the_connector_takes_dicom_documents_only() -> None:
    assert set(CONNECTOR.accepts) == DICOM_KINDS
    assert set(CONNECTOR.sends) == {
        DocumentKind.SR,
        DocumentKind.SEG,
        DocumentKind.ENCAPSULATED_PDF,
    }
