"""Results and documents that cannot be right, one for each check: each stops its own."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import (
    Evidence,
    Finding,
    FramePlace,
    GraphicType,
    ImageLocation,
    ParametricMap,
)
from hub.domain.inference import ImagingInput, InferenceRequest, InferenceResult, InputRole
from hub.errors import IntegrityError
from hub.formats.encoding import document_uid
from hub.formats.invariants import check_documents, check_result
from tests import builders
from tests.unit.formats.encoded import CONTEXT, all_documents

SLICES, ROWS, COLUMNS = 3, 24, 32
STUDY = builders.chest_ct_study(SLICES, rows=ROWS, columns=COLUMNS)
REQUEST = builders.request_for(STUDY)
CARD = builders.model_card()
IMAGE = STUDY.instances[1].sop_instance_uid
STRANGER = "2.25.999.1.1"
PPM = Code("[ppm]", "UCUM", "parts per million")

Change = Callable[[InferenceResult], InferenceResult]


def located(points: tuple[tuple[float, float], ...] = ((1.0, 2.0),), **fields: Any) -> Finding:
    """A finding at a point of the second image."""
    uid = fields.pop("sop_instance_uid", IMAGE)
    kind = GraphicType.POINT if len(points) == 1 else GraphicType.POLYLINE
    place = ImageLocation(kind, uid, points, fields.pop("frame_number", None))
    return replace(
        builders.presence(REQUEST).findings[0],
        evidence=fields.pop("evidence", (Evidence(IMAGE),)),
        locations=(place,),
    )


def with_finding(**fields: Any) -> Change:
    """The first finding changed, also in ways that its own type refuses."""

    def change(result: InferenceResult) -> InferenceResult:
        first = replace(result.findings[0])
        for name, value in fields.items():
            object.__setattr__(first, name, value)
        return replace(result, findings=(first, *result.findings[1:]))

    return change


def with_location(*arguments: Any, **fields: Any) -> Change:
    return lambda result: replace(
        result, findings=(*result.findings, located(*arguments, **fields))
    )


def with_region(**fields: Any) -> Change:
    def change(result: InferenceResult) -> InferenceResult:
        assert result.region is not None
        region = replace(result.region)
        for name, value in fields.items():
            object.__setattr__(region, name, value)
        return replace(result, region=region)

    return change


def with_segment(**fields: Any) -> Change:
    def change(result: InferenceResult) -> InferenceResult:
        assert result.region is not None
        first, *others = result.region.segments
        segments = (replace(first, **fields), *others)
        return replace(result, region=replace(result.region, segments=segments))

    return change


def parametric_map(**fields: Any) -> ParametricMap:
    values: dict[str, Any] = {
        "sop_instance_uids": tuple(i.sop_instance_uid for i in STUDY.instances),
        "rows": ROWS,
        "columns": COLUMNS,
        "values": np.zeros((SLICES, ROWS, COLUMNS), "<f4").tobytes(),
        "quantity": builders.ATTENUATION,
        "unit": builders.HOUNSFIELD,
        "label": "density",
    }
    return ParametricMap(**(values | fields))


def with_map(**fields: Any) -> Change:
    made = parametric_map()
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return lambda result: replace(result, maps=(made,))


def voxels(value: int) -> bytes:
    labels = builders.lung_labels(SLICES, ROWS, COLUMNS)
    labels[1, 0, 0] = value
    return labels.tobytes()


BROKEN_RESULTS: dict[str, tuple[Change, str]] = {
    "a code with a wrong check digit": (
        with_finding(code=Code("118565007", "SCT", "Volume")),
        "finding: a code that SCT cannot have",
    ),
    "a LOINC code with a wrong check digit": (
        with_finding(code=Code("50021-2", "LN", "Lung volume")),
        "finding: a code that LN cannot have",
    ),
    "a DICOM code that there is not": (
        with_finding(finding_site=Code("199999", "DCM", "Nothing")),
        "finding: a code that DCM cannot have",
    ),
    "a RadLex code of no form": (
        with_finding(laterality=Code("5824", "RADLEX", "left")),
        "finding: a code that RADLEX cannot have",
    ),
    "a private code without a meaning": (
        with_finding(code=Code("laa", "99CAIDX", " ")),
        "finding: a code of 99CAIDX without a meaning",
    ),
    "a code without a scheme": (
        with_finding(code=Code("laa", "", "Low attenuation")),
        "finding: a code without a coding scheme designator",
    ),
    "a code without a value": (
        with_finding(code=Code("", "SCT", "Volume")),
        "finding: a code of SCT without a value",
    ),
    "a unit from elsewhere": (
        with_finding(unit=Code("118565006", "SCT", "mL")),
        "a unit that is not from UCUM",
    ),
    "no unit of UCUM": (
        with_finding(unit=Code("HU", "UCUM", "HU")),
        "unit: a code that UCUM cannot have",
    ),
    "another unit than the manifest's": (
        with_finding(unit=Code("L", "UCUM", "litre")),
        "a unit other than the model's manifest says",
    ),
    "a tracking UID that is none": (
        with_finding(tracking_uid="lungs"),
        "a tracking identifier that is no UID",
    ),
    "a value that is not a number": (
        with_finding(value=float("nan")),
        "a value that is not finite",
    ),
    "a value without end": (with_finding(value=float("inf")), "a value that is not finite"),
    "a probability beyond certainty": (
        with_finding(probability=1.5),
        "a probability outside 0 to 1",
    ),
    "a probability that is not a number": (
        with_finding(probability=float("nan")),
        "a probability outside 0 to 1",
    ),
    "a segment that is not there": (
        with_finding(segment_numbers=(3,)),
        "a segment that the region does not have",
    ),
    "evidence of another study": (
        with_finding(evidence=(Evidence(STRANGER),)),
        "evidence that is not in the study",
    ),
    "evidence on the second frame of an image that has one": (
        with_finding(evidence=(Evidence(IMAGE, (1, 2)),)),
        "evidence on a frame that its image does not have",
    ),
    "a location in another study": (
        with_location(sop_instance_uid=STRANGER),
        "a location on an image that is not in the study",
    ),
    "a location on an image that is no evidence": (
        with_location(evidence=(Evidence(STUDY.instances[0].sop_instance_uid),)),
        "a location on an image that is not among the finding's evidence",
    ),
    "a location to the right of its image": (
        with_location(((COLUMNS + 0.5, 1.0),)),
        "a location outside its image",
    ),
    "a location below its image": (
        with_location(((1.0, 1.0), (1.0, ROWS + 0.5))),
        "a location outside its image",
    ),
    "a location left of its image": (with_location(((-0.5, 1.0),)), "a location outside its image"),
    "a location nowhere": (with_location(((float("nan"), 1.0),)), "a location outside its image"),
    "a location on the second frame of an image that has one": (
        with_location(frame_number=2),
        "a location on a frame that its image does not have",
    ),
    "a region without planes": (
        with_region(sop_instance_uids=(), labels=b""),
        "region: no planes",
    ),
    "a region on another study": (
        with_region(
            sop_instance_uids=(STRANGER, *(i.sop_instance_uid for i in STUDY.instances[1:]))
        ),
        "region: a plane on an image that is not in the study",
    ),
    "a region of another size": (
        with_region(rows=COLUMNS, columns=ROWS),
        "region: other rows and columns than its image",
    ),
    "two planes on one image": (
        with_region(sop_instance_uids=(IMAGE, IMAGE, IMAGE)),
        "region: two planes on one image",
    ),
    "two planes on one frame": (
        with_region(sop_instance_uids=(IMAGE,) * 3, frames=(FramePlace(1),) * 3),
        "region: two planes on one frame",
    ),
    "a plane on a frame that is not there": (
        with_region(frames=(FramePlace(1), FramePlace(1), FramePlace(2))),
        "region: a plane on a frame that its image does not have",
    ),
    "a region without segments": (with_region(segments=()), "a region without segments"),
    "two segments with one number": (with_segment(number=2), "two segments with one number"),
    "a segment with the number 0": (
        with_segment(number=0),
        "a segment with a number outside 1 to 255",
    ),
    "a nested segment that is not there": (
        with_region(includes=((7, (1, 2)),)),
        "a nested segment that the region does not have",
    ),
    "voxels of a segment that is not there": (
        with_region(labels=voxels(9)),
        "voxels of a segment that the region does not have",
    ),
    "a segment of a wrong code": (
        with_segment(property_type=Code("39607009", "SCT", "Lung")),
        "segment: a code that SCT cannot have",
    ),
    "a segment whose tracking UID is none": (
        with_segment(tracking_uid="1.02.3"),
        "a segment's tracking identifier that is no UID",
    ),
    "a segment without a label": (with_segment(label=" "), "a segment without a label"),
    "a colour that is none": (
        with_segment(recommended_display_rgb=(0, 256, 0)),
        "a colour outside 0 to 255",
    ),
    "a map on another study": (
        with_map(sop_instance_uids=(STRANGER,)),
        "map: a plane on an image that is not in the study",
    ),
    "a map of another size": (
        with_map(rows=ROWS + 1),
        "map: other rows and columns than its image",
    ),
    "a map of a wrong code": (
        with_map(quantity=Code("1", "LN", "Density")),
        "map: a code that LN cannot have",
    ),
    "a map in a unit from elsewhere": (
        with_map(unit=Code("112031", "DCM", "HU")),
        "map: a unit that is not from UCUM",
    ),
    "a map in a unit that is none": (
        with_map(unit=Code("Hounsfield", "UCUM", "HU")),
        "map: a code that UCUM cannot have",
    ),
}


@pytest.mark.parametrize("case", BROKEN_RESULTS)
def test_a_result_that_cannot_be_right_stops(case: str) -> None:
    change, problem = BROKEN_RESULTS[case]
    with pytest.raises(IntegrityError) as stopped:
        check_result(REQUEST, change(builders.assessed(REQUEST)), CARD)
    _, _, problems = str(stopped.value).partition("the result cannot be valid: ")
    assert problem in problems.split("; ")


def test_results_of_every_outcome_pass() -> None:
    region = with_region(frames=tuple(FramePlace(1) for _ in range(SLICES)))
    good = with_map()(with_location(((0.0, 0.0), (COLUMNS, ROWS)))(builders.assessed(REQUEST)))
    for result in (
        good,
        region(good),
        builders.assessed(REQUEST, with_region=False),
        builders.presence(REQUEST),
        builders.not_assessable(REQUEST),
        builders.unsuitable(REQUEST),
    ):
        check_result(REQUEST, result, CARD)
    ecg = builders.request_for(builders.ecg_study())
    check_result(ecg, builders.ecg_assessed(ecg), CARD)


def test_a_result_from_the_record_has_no_voxels_and_passes() -> None:
    result = builders.assessed(REQUEST)
    assert result.region is not None
    check_result(REQUEST, replace(result, region=result.region.without_voxels()), CARD)


def test_a_location_on_an_object_of_several_frames_names_one() -> None:
    image = replace(STUDY.instances[0], number_of_frames=4)
    series = replace(STUDY.series[0], instances=(image,))
    request = builders.request_for(replace(STUDY, series=(series,)))

    def found(frame: int | None) -> InferenceResult:
        uid = image.sop_instance_uid
        finding = located(sop_instance_uid=uid, evidence=(Evidence(uid),), frame_number=frame)
        return replace(builders.presence(request), findings=(finding,))

    check_result(request, found(4), CARD)
    for frame, problem in (
        (None, "a location that does not say on which frame"),
        (5, "a location on a frame that its image does not have"),
    ):
        with pytest.raises(IntegrityError, match=problem):
            check_result(request, found(frame), CARD)


def test_a_location_on_a_waveform_is_none() -> None:
    request = builders.request_for(builders.ecg_study())
    uid = request.study.instances[0].sop_instance_uid
    finding = located(sop_instance_uid=uid, evidence=(Evidence(uid),))
    with pytest.raises(IntegrityError, match="a location on what has no pixels"):
        check_result(request, replace(builders.presence(request), findings=(finding,)), CARD)


def test_a_manifest_whose_report_has_a_wrong_code_makes_no_report() -> None:
    procedure = replace(CARD.procedure, report_code=Code("24627-3", "LN", "CT Chest"))
    with pytest.raises(IntegrityError, match="procedure: a code that LN cannot have"):
        check_result(REQUEST, builders.assessed(REQUEST), replace(CARD, procedure=procedure))


def test_no_value_stands_in_the_message() -> None:
    change = with_finding(code=Code("Mustermann", "SCT", "Mustermann"), evidence=(Evidence("9.9"),))
    with pytest.raises(IntegrityError) as stopped:
        check_result(REQUEST, change(builders.assessed(REQUEST)), CARD)
    assert "Mustermann" not in str(stopped.value)
    assert "9.9" not in str(stopped.value)


# --- documents ---------------------------------------------------------------------------

Made = dict[DocumentKind, Document]
DOCUMENTS = all_documents(REQUEST, builders.assessed(REQUEST))
OTHER = builders.request_for(builders.chest_ct_study(SLICES, study_instance_uid="2.25.1002"))
SEG, SR, PDF = DocumentKind.SEG, DocumentKind.SR, DocumentKind.PDF


def bytes_changed(kind: DocumentKind, old: str, new: str, *, only_last: bool = False) -> Made:
    """As if an encoder had written something else, of the same length."""
    content = DOCUMENTS[kind].content
    assert len(old) == len(new)
    assert old.encode() in content
    if only_last:
        at = content.rindex(old.encode())
        content = content[:at] + new.encode() + content[at + len(new) :]
    else:
        content = content.replace(old.encode(), new.encode())
    return {**DOCUMENTS, kind: replace(DOCUMENTS[kind], content=content)}


def fields_changed(kind: DocumentKind, **fields: Any) -> Made:
    return {**DOCUMENTS, kind: replace(DOCUMENTS[kind], **fields)}


def without(kind: DocumentKind) -> Made:
    return {name: one for name, one in DOCUMENTS.items() if name is not kind}


BROKEN_DOCUMENTS: dict[str, tuple[Made, str]] = {
    "another study's document": (
        {
            **DOCUMENTS,
            SR: replace(
                all_documents(OTHER, builders.assessed(OTHER))[SR],
                request_id=REQUEST.request_id,
                identity=STUDY.identity,
                related_uids=(),
            ),
        },
        "StudyInstanceUID",
    ),
    "made for another request": (
        fields_changed(PDF, request_id="other"),
        "pdf: made for another request",
    ),
    "recorded for another study": (
        fields_changed(PDF, identity=OTHER.study.identity),
        "pdf: StudyInstanceUID of its record",
    ),
    "another patient": (bytes_changed(SR, "CAIDX-4711", "CAIDX-4712"), "sr: PatientID"),
    "another issuer": (bytes_changed(SEG, "LO\x04\x00UMR ", "LO\x04\x00UMX "), "IssuerOfPatientID"),
    "another order": (bytes_changed(SR, "A-2026-0042", "A-2026-0043"), "sr: AccessionNumber"),
    "another issuer of the order": (
        bytes_changed(SEG, "UT\0\0\x04\0\0\0RIS ", "UT\0\0\x04\0\0\0XIS "),
        "seg: IssuerOfAccessionNumber",
    ),
    "another object than recorded": (
        fields_changed(SEG, document_id="2.25.12345"),
        "seg: SOPInstanceUID",
    ),
    "bytes that are no object": (fields_changed(SR, content=b"DICM" * 50), "sr cannot be read"),
    "an object that breaks off": (
        fields_changed(SR, content=DOCUMENTS[SR].content[:1500]),
        "sr cannot be read",
    ),
    "a reference to an image of another study": (
        bytes_changed(SR, STUDY.instances[2].sop_instance_uid, "2.25.9001.1.3", only_last=True),
        "sr: it refers to an object that is not there",
    ),
    "a reference to a segmentation that was not made": (
        without(SEG),
        "sr: it refers to an object that is not there",
    ),
    "related to what was not made": (
        fields_changed(PDF, related_uids=("2.25.77",)),
        "pdf: it is related to a document that is not there",
    ),
    "an image as another class": (
        bytes_changed(
            SR, "UI\x1a\x00" + builders.CT_IMAGE_STORAGE, "UI\x1a\x001.2.840.10008.5.1.4.1.1.4"
        ),
        "sr: it refers to an image as an object of another class",
    ),
    "another study in a sequence": (
        bytes_changed(
            SR,
            "\x20\x00\x0d\x00UI\x0a\x002.25.1001",
            "\x20\x00\x0d\x00UI\x0a\x002.25.1009",
            only_last=True,
        ),
        "sr: it refers to another study",
    ),
}


@pytest.mark.parametrize("case", BROKEN_DOCUMENTS)
def test_a_document_that_cannot_be_right_stops(case: str) -> None:
    documents, problem = BROKEN_DOCUMENTS[case]
    with pytest.raises(IntegrityError, match=re.escape(problem)):
        check_documents(REQUEST, documents.values())


def test_documents_of_a_result_pass_together() -> None:
    assert SEG in DOCUMENTS
    check_documents(REQUEST, DOCUMENTS.values())


def test_a_document_may_refer_to_one_that_was_sent_before() -> None:
    check_documents(REQUEST, without(SEG).values(), {DOCUMENTS[SEG].document_id})


def test_a_document_may_refer_to_a_prior() -> None:
    """Evidence may name what the model saw of an earlier examination of the same patient."""
    prior = builders.chest_ct_study(SLICES, study_instance_uid="2.25.1009")
    uid = prior.instances[2].sop_instance_uid
    ours = STUDY.instances[2].sop_instance_uid
    made = bytes_changed(SR, ours, uid, only_last=True)
    with pytest.raises(IntegrityError):
        check_documents(REQUEST, made.values())
    given = (*REQUEST.inputs, ImagingInput(InputRole.PRIOR, prior.series))
    check_documents(replace(REQUEST, inputs=given), made.values())


def test_the_identifier_of_a_document_is_that_of_its_object() -> None:
    assert DOCUMENTS[SR].document_id == document_uid(SR, REQUEST, CONTEXT)


def test_a_result_of_200_images_is_checked_in_no_time() -> None:
    """A few milliseconds, measured; here it must only not be of another order."""
    request: InferenceRequest = builders.request_for(builders.chest_ct_study(200))
    result = builders.assessed(request)
    documents = list(all_documents(request, result).values())
    check_result(request, result, CARD)
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        check_result(request, result, CARD)
        check_documents(request, documents)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.05
