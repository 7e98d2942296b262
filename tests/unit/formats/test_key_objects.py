from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import highdicom
import pydicom
import pytest

from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Evidence
from hub.domain.inference import ImagingInput, InferenceRequest, InputRole
from hub.domain.report import ReportCause
from hub.formats.dicom_objects import key_image
from hub.formats.sr import key_objects
from tests import builders
from tests.unit.formats.encoded import CONTEXT
from tests.unit.formats.report_states import (
    PERSON,
    RESULTS,
    encoded,
    second_version,
    version_after,
)

WITHDRAWN = [ReportCause.REJECTED, ReportCause.RETRACTED]


def read(document: Document) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(document.content))


def selected(document: Document) -> list[tuple[str, str]]:
    """Value type and SOP Instance UID of each object, in the order of the content."""
    return [
        (item.ValueType, item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in read(document).ContentSequence
        if "ReferencedSOPSequence" in item
    ]


def evidence(document: Document) -> dict[str, str]:
    """SOP Instance UID -> Series Instance UID."""
    [study] = read(document).CurrentRequestedProcedureEvidenceSequence
    return {
        reference.ReferencedSOPInstanceUID: series.SeriesInstanceUID
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }


def text(document: Document) -> str:
    [said] = [i.TextValue for i in read(document).ContentSequence if i.ValueType == "TEXT"][-1:]
    return str(said)


def request_of(slices: int) -> InferenceRequest:
    return builders.request_for(builders.chest_ct_study(slices))


def test_the_key_images_and_the_objects_of_the_result_are_selected() -> None:
    request = request_of(4)
    documents = encoded(request, builders.located(request))
    uids = [image.sop_instance_uid for image in request.study.instances]
    key = documents[DocumentKind.KEY_OBJECTS]
    assert selected(key) == [
        ("IMAGE", uids[0]),
        ("IMAGE", uids[3]),
        ("COMPOSITE", documents[DocumentKind.SR].document_id),
        ("COMPOSITE", documents[DocumentKind.SR_3D].document_id),
        ("COMPOSITE", documents[DocumentKind.PRESENTATION_STATE].document_id),
    ]
    assert key.related_uids == tuple(uid for kind, uid in selected(key) if kind == "COMPOSITE")
    title = read(key).ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodeMeaning) == ("113000", "Of Interest")
    assert text(key) == "CRITICAL FINDING: Nodule 2. AI result, not verified."


def test_all_that_is_selected_is_evidence_in_its_own_series() -> None:
    request = request_of(3)
    documents = encoded(request, builders.assessed(request))
    key = documents[DocumentKind.KEY_OBJECTS]
    cited = evidence(key)
    assert cited.keys() == {uid for _, uid in selected(key)}
    for kind in (DocumentKind.SEG, DocumentKind.SR, DocumentKind.SR_3D):
        assert cited[documents[kind].document_id] == read(documents[kind]).SeriesInstanceUID
    assert ("IMAGE", documents[DocumentKind.SEG].document_id) in selected(key)


def test_frames_are_selected_by_number() -> None:
    request = request_of(1)
    [image] = request.study.instances
    series = replace(request.study.series[0], instances=(replace(image, number_of_frames=40),))
    request = replace(
        request,
        study=replace(request.study, series=(series,)),
        inputs=(ImagingInput(InputRole.CURRENT, (series,)),),
    )
    result = builders.presence(request)
    rests_on = (Evidence(image.sop_instance_uid, (4, 31)),)
    result = replace(result, findings=(replace(result.findings[0], evidence=rests_on),))
    [item] = [
        item
        for item in read(encoded(request, result)[DocumentKind.KEY_OBJECTS]).ContentSequence
        if item.ValueType == "IMAGE"
    ]
    assert list(item.ReferencedSOPSequence[0].ReferencedFrameNumber) == [4, 31]


def test_a_result_that_shows_nothing_has_no_key_objects() -> None:
    request = request_of(2)
    for outcome in ("not assessable", "unsuitable", "failed"):
        assert DocumentKind.KEY_OBJECTS not in encoded(request, RESULTS[outcome](request))


def test_without_voxels_the_objects_of_the_first_version_are_selected() -> None:
    request = request_of(6)
    first, second = second_version(request, builders.assessed(request), ReportCause.ACCEPTED)
    key = second[DocumentKind.KEY_OBJECTS]
    assert selected(key) == [
        ("COMPOSITE", second[DocumentKind.SR].document_id),
        ("COMPOSITE", second[DocumentKind.SR_3D].document_id),
        ("IMAGE", first[DocumentKind.SEG].document_id),
    ]
    assert "verified by Größ, Dr. Änne" in text(key)


@pytest.mark.parametrize("cause", WITHDRAWN)
@pytest.mark.parametrize("outcome", ["measured", "located"])
def test_a_withdrawal_rejects_everything_that_was_sent(outcome: str, cause: ReportCause) -> None:
    request = request_of(3)
    first, second = second_version(request, RESULTS[outcome](request), cause)
    note = second[DocumentKind.REJECTION_NOTE]
    title = read(note).ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113037", "DCM")
    assert {uid for _, uid in selected(note)} == {d.document_id for d in first.values()}
    assert evidence(note) == {d.document_id: read(d).SeriesInstanceUID for d in first.values()}
    assert text(note).startswith("WITHDRAWN: this AI result must not be used (")
    assert "wrong lobe" in text(note)
    [name] = [i.PersonName for i in read(note).ContentSequence if i.ValueType == "PNAME"]
    assert str(name) == PERSON.name
    assert DocumentKind.KEY_OBJECTS not in second
    own = {d.document_id for d in second.values()}
    assert not own & {uid for _, uid in selected(note)}


def test_the_picture_that_says_so_is_not_rejected() -> None:
    request = request_of(2)
    first, second = second_version(request, builders.assessed(request), ReportCause.RETRACTED)
    context = version_after(first, ReportCause.RETRACTED)
    result, card = builders.assessed(request), builders.model_card()
    picture = key_image.encode(request, result, card, context, {})
    assert picture is not None
    related = {**second, DocumentKind.KEY_IMAGE: picture}
    note = key_objects.encode_rejection(request, result, card, context, related)
    assert note is not None
    assert {uid for _, uid in selected(note)} == {d.document_id for d in first.values()}


def test_only_a_withdrawn_report_of_which_something_was_sent_is_rejected() -> None:
    request = request_of(2)
    result = builders.assessed(request)
    first = encoded(request, result)
    card = builders.model_card()
    for context in (CONTEXT, version_after(first, ReportCause.MODIFIED)):
        assert key_objects.encode_rejection(request, result, card, context, {}) is None
    nothing = version_after({}, ReportCause.RETRACTED)
    assert key_objects.encode_rejection(request, result, card, nothing, {}) is None


def test_highdicom_reads_the_key_objects() -> None:
    request = request_of(3)
    for document in (
        encoded(request, builders.located(request))[DocumentKind.KEY_OBJECTS],
        second_version(request, builders.located(request), ReportCause.RETRACTED)[1][
            DocumentKind.REJECTION_NOTE
        ],
    ):
        found = highdicom.ko.KeyObjectSelectionDocument.from_dataset(read(document))
        references = found.content.get_references()
        assert [r.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for r in references] == [
            uid for _, uid in selected(document)
        ]
        study, series, _ = found.resolve_reference(selected(document)[0][1])
        assert study == "2.25.1001"
        assert series == evidence(document)[selected(document)[0][1]]


def test_objects_that_no_later_version_made_again_are_rejected_too() -> None:
    """The segmentation is of version 1, the report that is withdrawn of version 2."""
    request = request_of(2)
    result = builders.assessed(request)
    first = encoded(request, result)
    kept = {DocumentKind.SEG: first[DocumentKind.SEG]}
    replaced = {DocumentKind.SR: first[DocumentKind.SR]}
    context = version_after(replaced, ReportCause.RETRACTED)
    note = key_objects.encode_rejection(request, result, builders.model_card(), context, kept)
    assert note is not None
    assert {uid for _, uid in selected(note)} == {
        first[DocumentKind.SR].document_id,
        first[DocumentKind.SEG].document_id,
    }
