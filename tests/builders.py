"""Ready-made studies, requests and results for tests; every value is invented.

``chest_ct_study(n)`` and ``ecg_study()`` make studies, ``request_for(study)`` a request,
``model_card()`` a card, and ``assessed``, ``presence``, ``not_assessable``, ``unsuitable``,
``ecg_assessed`` a result of each outcome. Keyword arguments of the functions are the things
that tests vary; use ``dataclasses.replace`` for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from hub.domain.coding import Code
from hub.domain.finding import (
    Evidence,
    Finding,
    GraphicType,
    ImageLocation,
    Presence,
    Region,
    Segment,
)
from hub.domain.identity import PatientIdentity, derived_uid
from hub.domain.inference import (
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    InputRole,
    ModelKey,
    Outcome,
    Priority,
)
from hub.domain.model_card import Claim, IntendedUse, ModelCard, Procedure, Regulation, Vendor
from hub.domain.model_input import ImageInput
from hub.domain.model_output import OutputSpec, ScalarFinding
from hub.domain.model_runtime import Artefact, OnnxRuntime, TensorBinding
from hub.domain.study import (
    Completeness,
    EvidenceKind,
    Instance,
    Location,
    Series,
    Study,
    StudyKey,
)

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
TWELVE_LEAD_ECG_STORAGE = "1.2.840.10008.5.1.4.1.1.9.1.1"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"

RECEIVED_AT = datetime(2026, 3, 14, 8, 30, 12, tzinfo=UTC)
MADE_AT = datetime(2026, 3, 14, 8, 30, 15, 250000, tzinfo=UTC)

PATIENT = PatientIdentity(
    patient_id="CAIDX-4711",
    issuer_of_patient_id="UMR",
    patient_name="Müller-Größ^Jörg^^Dr.",
    patient_birth_date="19580217",
    patient_sex="M",
)

LUNG = Code("39607008", "SCT", "Lung")
ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
MORPHOLOGICALLY_ALTERED_STRUCTURE = Code("49755003", "SCT", "Morphologically Altered Structure")
EMPHYSEMA = Code("87433001", "SCT", "Pulmonary emphysema")
PNEUMOTHORAX = Code("36118008", "SCT", "Pneumothorax")
PLEURAL_EFFUSION = Code("60046008", "SCT", "Pleural effusion")
RIGHT = Code("24028007", "SCT", "Right")
LEFT = Code("7771000", "SCT", "Left")
MILLILITRE = Code("mL", "UCUM", "mL")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "%")
MILLISECOND = Code("ms", "UCUM", "ms")
MILLIMETRE = Code("mm", "UCUM", "mm")
NODULE = Code("27925004", "SCT", "Nodule")
DIAMETER = Code("81827009", "SCT", "Diameter")
VOLUME = Code("118565006", "SCT", "Volume")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
LOW_ATTENUATION = Code("laa-950", "99CAIDX", "Low attenuation area below -950 HU")


def _instance(uid: str, series_uid: str, study_uid: str, **fields: Any) -> Instance:
    values: dict[str, Any] = {
        "sop_class_uid": CT_IMAGE_STORAGE,
        "transfer_syntax_uid": EXPLICIT_VR_LITTLE_ENDIAN,
        "patient": PATIENT,
        "sha256": derived_uid("bytes", uid)[5:].zfill(64)[:64],
        "location": Location("segment-1", 0, 1024),
        "accession_number": "A-2026-0042",
        "issuer_of_accession_number": "RIS",
    }
    values.update(fields)
    return Instance(
        sop_instance_uid=uid, series_instance_uid=series_uid, study_instance_uid=study_uid, **values
    )


def _study(study_uid: str, series: tuple[Series, ...], revision: int, description: str) -> Study:
    count = sum(len(s.instances) for s in series)
    first = series[0].instances[0]
    return Study(
        key=StudyKey(study_uid, revision),
        patient=first.patient,
        accession_number=first.accession_number,
        issuer_of_accession_number=first.issuer_of_accession_number,
        study_date="20260314",
        study_time="082501",
        study_description=description,
        study_id="4711-1",
        referring_physician_name="Weiß^Änne",
        series=series,
        completeness=Completeness(
            complete=True, evidence=EvidenceKind.ASSOCIATION_RELEASED, received=count, expected=None
        ),
        received_at=RECEIVED_AT,
        calling_ae_title="CT_SCANNER",
        source="dicom",
    )


def chest_ct_study(
    slices: int = 3,
    *,
    rows: int = 64,
    columns: int = 64,
    patient: PatientIdentity = PATIENT,
    revision: int = 1,
    accession_number: str = "A-2026-0042",
    study_instance_uid: str = "2.25.1001",
) -> Study:
    """A chest CT of one axial series: slices 5 mm apart from feet to head, 0.7 mm pixels."""
    series_uid = f"{study_instance_uid}.1"
    frame_of_reference_uid = f"{study_instance_uid}.9"
    instances = tuple(
        _instance(
            f"{series_uid}.{number}",
            series_uid,
            study_instance_uid,
            patient=patient,
            accession_number=accession_number,
            issuer_of_accession_number="RIS" if accession_number else "",
            modality="CT",
            instance_number=number,
            rows=rows,
            columns=columns,
            image_position_patient=(-175.5, -160.25, -300.0 + 5.0 * number),
            image_orientation_patient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            pixel_spacing=(0.7, 0.7),
            slice_thickness=5.0,
            frame_of_reference_uid=frame_of_reference_uid,
            attributes={
                "body_part_examined": "CHEST",
                "series_description": "Thorax nativ 5.0",
                "patient_age": "068Y",
            },
        )
        for number in range(1, slices + 1)
    )
    series = (Series(series_uid, "CT", instances),)
    return _study(study_instance_uid, series, revision, "CT Thorax nativ")


def ecg_study(
    *, patient: PatientIdentity = PATIENT, study_instance_uid: str = "2.25.2002"
) -> Study:
    """One 12-lead ECG."""
    series_uid = f"{study_instance_uid}.1"
    ecg = _instance(
        f"{series_uid}.1",
        series_uid,
        study_instance_uid,
        sop_class_uid=TWELVE_LEAD_ECG_STORAGE,
        patient=patient,
        modality="ECG",
        instance_number=1,
    )
    return _study(study_instance_uid, (Series(series_uid, "ECG", (ecg,)),), 1, "Ruhe-EKG")


def model_card(*, model_id: str = "lung-density", name: str = "Lung density") -> ModelCard:
    """A complete card; what only the input gate and the adapter read is kept small."""
    return ModelCard(
        id=model_id,
        name=name,
        version="1.2.0",
        vendor=Vendor(
            name="Beispiel Medizintechnik GmbH",
            address="Musterweg 1, 18057 Rostock",
            contact="ai@example.org",
        ),
        description="Measures lung volume and density.",
        licence="Apache-2.0",
        intended_use=IntendedUse(
            purpose="Quantifies lung volume and low attenuation areas on non-contrast chest CT "
            "of adults, as an aid to the radiologist.",
            not_for=(
                "diagnosis without a physician",
                "children and adolescents",
                "contrast-enhanced examinations",
            ),
            user="radiologist",
            environment="radiology reading room",
            modalities=("CT",),
            sop_classes=(CT_IMAGE_STORAGE,),
        ),
        regulation=Regulation(medical_device=False, ai_act_reason="research use only"),
        procedure=Procedure(
            title="Lung density",
            report_code=Code("24627-2", "LN", "CT Chest"),
            procedure_reported=Code("24627-2", "LN", "CT Chest"),
        ),
        input=ImageInput(kind="image"),
        runtime=OnnxRuntime(
            kind="onnx",
            graph=Artefact(path="model.onnx", sha256="0" * 64),
            inputs=(TensorBinding(name="image", axes="1 1 row column"),),
        ),
        output=OutputSpec(
            findings=(
                ScalarFinding(
                    kind="measurement",
                    output="volume",
                    code=VOLUME,
                    unit=MILLILITRE,
                    tracking_identifier="Lungs",
                ),
            )
        ),
        claims=(Claim(metric="mean absolute error", value="1.9 %", population="212 adults"),),
    )


def request_for(study: Study, *, card: ModelCard | None = None) -> InferenceRequest:
    """A routine request about all series of a study."""
    card = card or model_card()
    return InferenceRequest(
        request_id=derived_uid("request", study.study_instance_uid, card.id)[5:37],
        model=ModelKey(card.id, card.version, "ab" * 32),
        route="chest-ct",
        priority=Priority.ROUTINE,
        study=study,
        inputs=(ImagingInput(InputRole.CURRENT, study.series),),
        reasons=("study: 'CT' in study.modalities_in_study",),
        parameters={"kernel": "soft"},
    )


def result_for(request: InferenceRequest, outcome: Outcome, **fields: Any) -> InferenceResult:
    return InferenceResult(
        request_id=request.request_id,
        model=request.model,
        identity=request.study.identity,
        outcome=outcome,
        **fields,
    )


def _tracking_uid(request: InferenceRequest, name: str) -> str:
    return derived_uid(request.study.study_instance_uid, request.model.model_id, name)


def lung_labels(slices: int, rows: int, columns: int) -> np.ndarray:
    """Two lungs (1) with low-attenuation areas (2) inside; the first slice is empty when there
    are several. Shape (slice, row, column), uint8."""
    row, column = np.ogrid[:rows, :columns]
    labels = np.zeros((slices, rows, columns), np.uint8)
    for centre in (0.3, 0.7):
        distance = ((row / rows - 0.5) / 0.3) ** 2 + ((column / columns - centre) / 0.15) ** 2
        labels[:, distance < 1.0] = 1
        labels[:, distance < 0.2] = 2
    if slices > 1:
        labels[0] = 0
    return labels


def lung_region(request: InferenceRequest, labels: np.ndarray | None = None) -> Region:
    """Lungs, which include the low-attenuation areas nested in them."""
    images = request.series[0].instances
    rows, columns = images[0].rows or 0, images[0].columns or 0
    labels = lung_labels(len(images), rows, columns) if labels is None else labels
    return Region(
        sop_instance_uids=tuple(image.sop_instance_uid for image in images),
        rows=rows,
        columns=columns,
        labels=labels.tobytes(),
        segments=(
            Segment(
                number=1,
                label="Lungs",
                category=ANATOMICAL_STRUCTURE,
                property_type=LUNG,
                tracking_uid=_tracking_uid(request, "Lungs"),
                tracking_identifier="Lungs",
                recommended_display_rgb=(79, 156, 249),
            ),
            Segment(
                number=2,
                label="Low attenuation areas",
                category=MORPHOLOGICALLY_ALTERED_STRUCTURE,
                property_type=EMPHYSEMA,
                tracking_uid=_tracking_uid(request, "Low attenuation areas"),
                tracking_identifier="Low attenuation areas",
                recommended_display_rgb=(240, 90, 60),
            ),
        ),
        includes=((1, (1, 2)),),
    )


def assessed(
    request: InferenceRequest, *, with_region: bool = True, warnings: Sequence[str] = ()
) -> InferenceResult:
    """Lung volume, density and %LAA-950 of a CT, with the region they were measured in."""
    evidence = tuple(Evidence(i.sop_instance_uid) for i in request.series[0].instances)
    region = lung_region(request) if with_region else None

    segments = {1: "Lungs", 2: "Low attenuation areas"}

    def measured(name: str, value: float, unit: Code, code: Code, segment: int) -> Finding:
        return Finding(
            tracking_uid=_tracking_uid(request, segments[segment]),
            tracking_identifier=segments[segment],
            code=code,
            value=value,
            unit=unit,
            finding_site=LUNG,
            evidence=evidence,
            segment_numbers=(segment,) if with_region else (),
            statement=name,
        )

    return result_for(
        request,
        Outcome.ASSESSED,
        findings=(
            measured("Lung volume is 5312.4 mL.", 5312.4, MILLILITRE, VOLUME, 1),
            measured("Mean lung density is -861.3 HU.", -861.3, HOUNSFIELD, ATTENUATION, 1),
            measured("7.2 % of the lungs lie below -950 HU.", 7.2, PERCENT, LOW_ATTENUATION, 2),
        ),
        region=region,
        warnings=tuple(warnings),
    )


def presence(request: InferenceRequest) -> InferenceResult:
    """One finding of each answer: present, absent, indeterminate, not assessable."""
    evidence = (Evidence(request.series[0].instances[0].sop_instance_uid),)

    def answer(code: Code, side: Code, found: Presence, probability: float | None) -> Finding:
        name = f"{code.code_meaning}, {side.code_meaning.lower()}"
        return Finding(
            tracking_uid=_tracking_uid(request, name),
            tracking_identifier=name,
            code=code,
            presence=found,
            probability=probability,
            finding_site=LUNG,
            laterality=side,
            evidence=evidence,
            statement=f"{name}: {found.value}.",
        )

    return result_for(
        request,
        Outcome.ASSESSED,
        findings=(
            answer(PNEUMOTHORAX, RIGHT, Presence.PRESENT, 0.93),
            answer(PNEUMOTHORAX, LEFT, Presence.ABSENT, 0.02),
            answer(PLEURAL_EFFUSION, RIGHT, Presence.INDETERMINATE, 0.48),
            answer(PLEURAL_EFFUSION, LEFT, Presence.NOT_ASSESSABLE, None),
        ),
    )


def not_assessable(request: InferenceRequest) -> InferenceResult:
    return result_for(
        request,
        Outcome.NOT_ASSESSABLE,
        reasons=("No lung was found in the images.",),
        warnings=("Slice thickness of 5 mm is above the recommended 1.5 mm.",),
    )


def unsuitable(request: InferenceRequest) -> InferenceResult:
    return result_for(
        request,
        Outcome.UNSUITABLE,
        reasons=("The patient is 12 years old; the model is for 18 years and older.",),
    )


def ecg_assessed(request: InferenceRequest) -> InferenceResult:
    """Rhythm and RR interval of an ECG."""
    evidence = (Evidence(request.series[0].instances[0].sop_instance_uid),)
    uid = _tracking_uid(request, "ECG")
    return result_for(
        request,
        Outcome.ASSESSED,
        findings=(
            Finding(
                tracking_uid=uid,
                tracking_identifier="ECG",
                code=Code("106068003", "SCT", "Cardiac rhythm finding"),
                coded_value=Code("64730000", "SCT", "Normal sinus rhythm"),
                probability=0.97,
                evidence=evidence,
                statement="Sinus rhythm.",
            ),
            Finding(
                tracking_uid=uid,
                tracking_identifier="ECG",
                code=Code("8637-1", "LN", "R-R interval"),
                value=863.0,
                unit=MILLISECOND,
                evidence=evidence,
                statement="RR interval is 863 ms.",
            ),
        ),
    )


def located(request: InferenceRequest, image: int = -1) -> InferenceResult:
    """Nodules that lie somewhere: one measured and outlined on two images, one circled and
    critical, one that is absent; ``image`` is the index of the main one in the series."""
    uids = [i.sop_instance_uid for i in request.series[0].instances]
    first, other = uids[image], uids[0]
    outline = ((10.5, 12.0), (20.0, 12.5), (18.25, 24.0), (10.5, 12.0))

    def nodule(name: str, **fields: Any) -> Finding:
        values: dict[str, Any] = {"code": NODULE, "finding_site": LUNG, "statement": f"{name}."}
        return Finding(
            tracking_uid=_tracking_uid(request, name), tracking_identifier=name, **values | fields
        )

    return result_for(
        request,
        Outcome.ASSESSED,
        findings=(
            nodule(
                "Nodule 1",
                code=DIAMETER,
                value=8.25,
                unit=MILLIMETRE,
                laterality=RIGHT,
                evidence=tuple(Evidence(uid) for uid in dict.fromkeys((first, other))),
                locations=(
                    ImageLocation(GraphicType.POLYLINE, first, outline),
                    ImageLocation(GraphicType.POINT, other, ((30.5, 31.25),)),
                ),
            ),
            nodule(
                "Nodule 2",
                presence=Presence.PRESENT,
                probability=0.91,
                critical=True,
                evidence=(Evidence(other),),
                locations=(ImageLocation(GraphicType.CIRCLE, other, ((40.0, 40.5), (46.0, 40.5))),),
            ),
            nodule("Nodule 3", presence=Presence.ABSENT, evidence=(Evidence(first),)),
        ),
    )


def failed(request: InferenceRequest) -> InferenceResult:
    return result_for(
        request, Outcome.FAILED, reasons=("The model stopped: it ran out of memory.",)
    )
