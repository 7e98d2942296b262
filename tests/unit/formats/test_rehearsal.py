"""The rehearsal makes every kind of document, so that each library has been used once."""

from __future__ import annotations

from datetime import UTC, datetime

from hub.bootstrap.encoding import ENCODERS
from hub.domain.delivery import DocumentKind
from hub.domain.inference import ModelKey
from hub.formats.encoding import EncodingContext
from hub.formats.rehearsal import rehearse
from tests.builders import model_card


def test_every_kind_of_document_is_made() -> None:
    context = EncodingContext(
        made_at=datetime(2026, 1, 1, tzinfo=UTC), institution_name="Clinic", software_version="1"
    )

    made = rehearse(ENCODERS, ModelKey("lung-density", "1", "0" * 64), model_card(), context)

    withdrawals = {DocumentKind.REJECTION_NOTE}
    assert set(made) == set(ENCODERS) - withdrawals
