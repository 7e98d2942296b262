"""Which documents are made for which destinations, and that nothing refers to what its receiver
has not got."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.domain.report import ReportVersion
from hub.formats.encoding import FIRST_VERSION, EncodingContext, document_uid
from hub.registry import Registry
from hub.report_steps import ReportMaker, groups_of
from hub.store.documents import DocumentStore
from tests import builders
from tests.fakes import FrozenClock
from tests.unit.formats.encoded import CONTEXT

Kind = DocumentKind
Made = tuple[DocumentKind, str, frozenset[DocumentKind]]


@pytest.fixture(autouse=True)
def _any_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """These documents are named, not encoded: tests/unit/formats/test_invariants.py looks at real
    ones."""
    monkeypatch.setattr("hub.report_steps._check_documents", lambda *_: None)


def test_destinations_that_get_the_same_dicom_documents_are_a_group() -> None:
    groups = groups_of(
        {
            "pacs": (Kind.SR, Kind.SEG),
            "viewer": (Kind.SEG, Kind.SR, Kind.FHIR),
            "archive": (Kind.SR,),
            "ehr": (Kind.FHIR,),
        }
    )
    assert {group.profile: sorted(group.destinations) for group in groups} == {
        "seg+sr": ["ehr", "pacs", "viewer"],
        "sr": ["archive"],
    }


def test_destinations_without_dicom_documents_are_a_group_of_their_own() -> None:
    (group,) = groups_of({"ehr": (Kind.FHIR,), "ris": (Kind.NOTICE,)})
    assert group.profile == ""
    assert group.kinds == {Kind.FHIR, Kind.NOTICE, Kind.PDF}, "a PDF is part of the FHIR report"
    assert groups_of({}) == []


@pytest.fixture
def made() -> list[Made]:
    """What was encoded: the kind, the profile, and the documents that could be referred to."""
    return []


@pytest.fixture
def maker(tmp_path: Path, made: list[Made]) -> ReportMaker:
    def encoder(kind: DocumentKind) -> Callable[..., Document | None]:
        def encode(
            request: InferenceRequest,
            result: InferenceResult,
            card: ModelCard,
            context: EncodingContext,
            related: Mapping[DocumentKind, Document],
        ) -> Document | None:
            made.append((kind, context.profile, frozenset(related)))
            uid = document_uid(kind, request, context)
            return Document(uid, kind, request.request_id, result.identity, b"")

        return encode

    nothing: Any = None
    return ReportMaker(
        encoders={kind: encoder(kind) for kind in (Kind.PDF, Kind.SEG, Kind.SR, Kind.FHIR)},
        context=lambda: CONTEXT,
        clock=FrozenClock(),
        documents=DocumentStore(tmp_path),
        deliveries=nothing,
        registry=Registry(),
        journal=nothing,
    )


def make(
    maker: ReportMaker, destinations: Mapping[str, tuple[DocumentKind, ...]], **more: Any
) -> Any:
    request = builders.request_for(builders.chest_ct_study(1))
    result = builders.assessed(request)
    version = more.pop("version", FIRST_VERSION)
    card = builders.model_card()
    return maker.make(request, result, card, version, destinations=destinations, **more)


def test_a_document_refers_only_to_what_its_receivers_get(
    maker: ReportMaker, made: list[Made]
) -> None:
    done = make(maker, {"pacs": (Kind.SR, Kind.SEG), "archive": (Kind.SR,), "ehr": (Kind.FHIR,)})
    assert (Kind.SR, "seg+sr", frozenset({Kind.PDF, Kind.SEG})) in made
    assert (Kind.SR, "sr", frozenset()) in made
    with_seg, alone = done.by_destination["pacs"][1], done.by_destination["archive"][0]
    assert with_seg.document_id != alone.document_id, "they refer to other objects"
    assert [one.kind for one in done.by_destination["pacs"]] == [Kind.SEG, Kind.SR]
    assert [one.kind for one in done.by_destination["ehr"]] == [Kind.FHIR]
    assert {done.profiles[with_seg.document_id], done.profiles[alone.document_id]} == {
        "seg+sr",
        "sr",
    }


def test_what_refers_to_nothing_is_made_once(maker: ReportMaker, made: list[Made]) -> None:
    make(maker, {"pacs": (Kind.SR, Kind.SEG), "other": (Kind.SEG,)})
    assert [kind for kind, _, _ in made].count(Kind.SEG) == 1


def test_a_later_version_names_the_documents_that_are_not_made_again(
    maker: ReportMaker, made: list[Made]
) -> None:
    first = make(maker, {"pacs": (Kind.SR, Kind.SEG)})
    seg, sr = first.by_destination["pacs"]
    made.clear()
    without = {kind: one for kind, one in maker.encoders.items() if kind is not Kind.SEG}
    second = make(
        replace(maker, encoders=without),
        {"pacs": (Kind.SR, Kind.SEG)},
        version=ReportVersion(number=2),
        earlier={Kind.SEG: seg},
    )
    assert (Kind.SR, "seg+sr", frozenset({Kind.SEG})) in made
    assert second.by_destination["pacs"][-1].document_id != sr.document_id
