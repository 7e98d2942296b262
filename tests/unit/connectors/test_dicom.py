"""Configuration and statuses of the DICOM connector."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from connectors.dicom import CONNECTOR
from connectors.dicom.config import DicomDestinationConfig, DicomSourceConfig
from connectors.dicom.network import TRANSFER_SYNTAXES
from connectors.dicom.source import DicomSource
from connectors.dicom.status import Verdict, error_comment, verdict_of
from hub.domain.delivery import DocumentKind
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
    assert set(CONNECTOR.accepts) == {
        DocumentKind.SR,
        DocumentKind.SEG,
        DocumentKind.ENCAPSULATED_PDF,
    }
