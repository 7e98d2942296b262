"""Encode a made-up result once, so that the first real one need not wait.

Libraries build much when they are first used (the models of FHIR resources, the fonts of the
report): several times what encoding takes afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import (
    Evidence,
    Finding,
    GraphicType,
    ImageLocation,
    ParametricMap,
    Region,
    Segment,
)
from hub.domain.inference import (
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    InputRole,
    ModelKey,
    Outcome,
    Priority,
)
from hub.domain.model_card import ModelCard
from hub.domain.study import Completeness, Instance, Location, Series, Study, StudyKey
from hub.formats.dicom.header import instance_from_header, scan_header
from hub.formats.dicom.part10 import split_part10
from hub.formats.encoding import Encoder, EncodingContext
from hub.formats.images.ct_phantom import chest_phantom
from hub.formats.invariants import check_documents, check_result

_SIZE = 64
_LUNG = Code("39607008", "SCT", "Lung")
_VOLUME = Code("118565006", "SCT", "Volume")
_MILLILITRE = Code("mL", "UCUM", "mL")
_TRACKING = ("2.25.1", "Rehearsal")


def rehearse(
    encoders: Mapping[DocumentKind, Encoder],
    key: ModelKey,
    card: ModelCard,
    context: EncodingContext,
) -> dict[DocumentKind, Document]:
    """Make every document of a measurement on one small phantom image; nothing is kept."""
    request = _request(key, context)
    result = _result(request)
    made: dict[DocumentKind, Document] = {}
    for kind, encode in encoders.items():
        document = encode(request, result, card, context, made)
        if document is not None:
            made[kind] = document
    check_result(request, result, card)
    check_documents(request, made.values())
    return made


def _request(key: ModelKey, context: EncodingContext) -> InferenceRequest:
    image = _image()
    series = Series(image.series_instance_uid, image.modality, (image,))
    study = Study(
        key=StudyKey(image.study_instance_uid, 1),
        patient=image.patient,
        accession_number="",
        issuer_of_accession_number="",
        study_date=image.attributes.get("study_date", ""),
        study_time="",
        study_description="",
        study_id="",
        referring_physician_name="",
        series=(series,),
        completeness=Completeness(complete=True, evidence=None, received=1, expected=None),
        received_at=context.made_at,
    )
    return InferenceRequest(
        request_id="rehearsal",
        model=key,
        route="rehearsal",
        priority=Priority.ROUTINE,
        study=study,
        inputs=(ImagingInput(InputRole.CURRENT, (series,)),),
        reasons=(),
    )


def _image() -> Instance:
    file = chest_phantom(slices=1, rows=_SIZE, columns=_SIZE).files[0]
    transfer_syntax_uid, data_set = split_part10(file)
    scan = scan_header(data_set, transfer_syntax_uid)
    sha256 = hashlib.sha256(data_set).hexdigest()
    return instance_from_header(scan, sha256=sha256, location=Location("", 0, len(file)))


def _result(request: InferenceRequest) -> InferenceResult:
    uid = request.study.instances[0].sop_instance_uid
    tracking_uid, tracking_identifier = _TRACKING
    voxels = _SIZE * _SIZE
    segment = Segment(1, "Lung", _LUNG, _LUNG, tracking_uid, tracking_identifier, (200, 200, 200))
    return InferenceResult(
        request_id=request.request_id,
        model=request.model,
        identity=request.study.identity,
        outcome=Outcome.ASSESSED,
        findings=(
            Finding(
                tracking_uid=tracking_uid,
                tracking_identifier=tracking_identifier,
                code=_VOLUME,
                value=1.0,
                unit=_MILLILITRE,
                finding_site=_LUNG,
                evidence=(Evidence(uid),),
                segment_numbers=(1,),
                statement="Rehearsal.",
                locations=(ImageLocation(GraphicType.POINT, uid, ((1.0, 1.0),)),),
            ),
        ),
        region=Region(
            sop_instance_uids=(uid,),
            rows=_SIZE,
            columns=_SIZE,
            labels=bytes([1]) * voxels,
            segments=(segment,),
            probabilities=bytes([255]) * voxels,
        ),
        maps=(
            ParametricMap(
                sop_instance_uids=(uid,),
                rows=_SIZE,
                columns=_SIZE,
                values=bytes(4 * voxels),
                quantity=_VOLUME,
                unit=_MILLILITRE,
                label="Rehearsal",
            ),
        ),
    )
