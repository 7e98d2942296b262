"""One result as an HL7 v2.5.1 message ORU^R01 (chapter 7.3.1), for systems that know nothing else.

The shape follows IHE RAD-128 (Send Imaging Result): PID, PV1, ORC, OBR with the accession number
in OBR-18 and its issuer in OBR-19, TQ1, and OBX, one of them the Study Instance UID
(113014, DCM). OBR-3 is the hub's own number of the report, not the order's: the result stands
beside a radiologist's report and never in its place. Of measured values (OBR-24 LAB) there is no
study, and the sentences name the values. It is the same in all versions and for all
revisions of the study, so that a later message corrects the earlier one.

=====================================  ======  ==============================================
the report                             OBR-25  OBX-11 of each finding
=====================================  ======  ==============================================
preliminary                            P       P
final (a person accepted it)           F       F
amended (late images, or a person)     C       C
withdrawn, rejected                    C       W, and the value is the word "WITHDRAWN"
unsuitable, failed                     X       X, without a value
not assessable: a finding, or all      as it   X, without a value
                                       is
=====================================  ======  ==============================================

A finding of the replaced report that is not found any more has W, too; and so has what was said of
its place, and a DICOM object that is named no more. The report in sentences
(OBX 121077, and NTE) begins with what it is: an AI's word, and whether somebody answers for it.
"""

from __future__ import annotations

import math
from base64 import b32encode, b64encode
from collections.abc import Iterator, Mapping
from decimal import Decimal

from hub.domain.coding import Code
from hub.domain.delivery import DICOM_KINDS, Document, DocumentKind
from hub.domain.finding import Finding, Presence
from hub.domain.identity import derived_uuid
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import ModelCard
from hub.domain.model_output import FindingSpec
from hub.errors import RejectedError
from hub.formats.encoding import (
    OUTCOME_CODES,
    OUTCOME_CONCEPT,
    PRESENCE_CODES,
    PRODUCT_NAME,
    EncodingContext,
    check_document_identity,
    document_uuid,
)
from hub.formats.fhir.status import (
    AMENDED,
    CANCELLED,
    ENTERED_IN_ERROR,
    FINAL,
    PRELIMINARY,
    is_replacement,
    report_status,
)
from hub.formats.hl7v2.fields import (
    coded_element,
    date,
    interpreter,
    namespace,
    observed_at,
    patient_identifier,
    patient_name,
    person,
    placer_order_number,
    sex,
    timestamp,
)
from hub.formats.hl7v2.message import components, encoded_message, escaped, formatted, segment
from hub.formats.hl7v2.observations import Observations, sub_identifier, sub_identifiers
from hub.formats.hl7v2.statements import (
    WITHDRAWN,
    conclusion,
    statements,
    unanswered_statement,
)

SENDING_APPLICATION = "CAIDX"
CHARACTER_SET = "UNICODE UTF-8"

CONCLUSION = Code("121077", "DCM", "Conclusion")
DICOM_STUDY = Code("113014", "DCM", "DICOM Study")
SOP_INSTANCE = Code("sop-instance-uid", "99CAIDX", "SOP Instance UID of a DICOM object of it")
IMAGING_REPORT = Code("18748-4", "LN", "Diagnostic imaging study")
ELECTROCARDIOGRAM_REPORT = Code("11524-6", "LN", "EKG study")
LABORATORY_REPORT = Code("11502-2", "LN", "Laboratory report")
FINDING_SITE = Code("363698007", "SCT", "Finding site")
LATERALITY = Code("272741003", "SCT", "Laterality")
WITHDRAWN_CODE = Code("withdrawn", "99CAIDX", "Withdrawn: must not be used")

LABORATORY = "LAB"
_REPORTS = {
    LABORATORY: LABORATORY_REPORT,
    "EC": ELECTROCARDIOGRAM_REPORT,
    "RAD": IMAGING_REPORT,
}
_REPORT_STATUS = {
    PRELIMINARY: "P",
    FINAL: "F",
    AMENDED: "C",
    ENTERED_IN_ERROR: "C",
    CANCELLED: "X",
}
"""As FHIR has it (`hub.formats.fhir.status`) -> tables 0123 and 0085."""
_CANNOT_BE_OBTAINED, _WRONG, _NO_RESULT = "X", "W", "O"
_CONTROL_ID_LENGTH = 20
_NUMBER_LENGTH = 16
_MOST_DIGITS = 15
_TEXT_LENGTH = 30_000
"""Characters of one FT field: 65536 (2.A.31), of which escaping may need several for one."""


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document | None:
    """The message (ER7, UTF-8); every outcome and every version of the report makes one.

    ``related`` may hold the PDF, which goes with it, and DICOM objects, which are named by their
    SOP Instance UIDs.

    Raises:
        IntegrityError: the result is not of this request.
        RejectedError: an answer cannot be expressed (not finite, a unit that is not UCUM).
    """
    check_document_identity(request, result)
    document_id = document_uuid(DocumentKind.ORU, request, context)
    segments = (
        _msh(document_id, context),
        _sft(context),
        *_patient(request, context),
        *_order(request, result, card, context),
        *_results(request, result, card, context, related),
    )
    return Document(
        document_id=document_id,
        kind=DocumentKind.ORU,
        request_id=request.request_id,
        identity=result.identity,
        content=encoded_message(segments),
        related_uids=tuple(one.document_id for one in related.values() if one.kind in DICOM_KINDS),
    )


def control_id(document_id: str) -> str:
    """MSH-10: at most 20 characters, and the same for the same document, so that a receiver
    which got it twice can tell (2.14.9.10)."""
    return _short(derived_uuid("hl7v2", document_id).bytes, _CONTROL_ID_LENGTH)


def _short(content: bytes, length: int) -> str:
    return b32encode(content).decode("ascii")[:length]


# --- header, patient, order ----------------------------------------------------------------


def _msh(document_id: str, context: EncodingContext) -> str:
    return segment(
        "MSH",
        {
            3: SENDING_APPLICATION,
            4: namespace(context.institution_name),
            7: timestamp(context.made_at.astimezone(context.timezone)),
            9: components("ORU", "R01", "ORU_R01"),
            10: control_id(document_id),
            11: "P",
            12: "2.5.1",
            18: CHARACTER_SET,
        },
    )


def _sft(context: EncodingContext) -> str:
    version = escaped(context.software_version)
    return segment("SFT", {1: "CAIDX", 2: version, 3: PRODUCT_NAME, 4: version})


def _patient(request: InferenceRequest, context: EncodingContext) -> Iterator[str]:
    study, patient = request.study, request.study.patient
    yield segment(
        "PID",
        {
            1: "1",
            3: patient_identifier(patient, context.identifier_systems),
            5: patient_name(patient.patient_name),
            7: date(patient.patient_birth_date),
            8: sex(patient),
        },
    )
    referring = study.referring_physician_name
    yield segment("PV1", {1: "1", 2: "U", 8: person(referring) if referring else ""})


def _order(
    request: InferenceRequest, result: InferenceResult, card: ModelCard, context: EncodingContext
) -> Iterator[str]:
    study = request.study
    lasting = derived_uuid("hl7v2", study.study_instance_uid, request.route, request.model.model_id)
    filler = components(_short(lasting.bytes, _NUMBER_LENGTH), SENDING_APPLICATION)
    priority = "S" if _is_critical(result, context) else "R"
    examined = observed_at(request)
    placer = placer_order_number(request.based_on)
    person_in_charge = context.report.verifier
    yield segment("ORC", {1: "RE", 2: placer, 3: filler})
    yield segment(
        "OBR",
        {
            1: "1",
            2: placer,
            3: filler,
            4: coded_element(card.procedure.report_code),
            5: priority,
            7: examined,
            18: escaped(study.accession_number),
            19: escaped(study.issuer_of_accession_number),
            22: timestamp(context.made_at.astimezone(context.timezone)),
            24: _service(request),
            25: _REPORT_STATUS[report_status(request, result, context)],
            32: interpreter(person_in_charge) if person_in_charge is not None else "",
        },
    )
    for number, text in enumerate(statements(request, result, context), start=1):
        yield segment("NTE", {1: str(number), 2: "L", 3: formatted(text)})
    yield segment("TQ1", {1: "1", 7: examined, 9: priority})


def _service(request: InferenceRequest) -> str:
    """Table 0074."""
    if request.study.is_case:
        return LABORATORY
    return "EC" if _is_electrocardiogram(request) else "RAD"


def _text_status(
    request: InferenceRequest, result: InferenceResult, context: EncodingContext
) -> str:
    """Of what is told about the report: there is a text, also where there is no answer."""
    status = report_status(request, result, context)
    if status == CANCELLED:
        return "C" if is_replacement(request, context.report) else "P"
    return _REPORT_STATUS[status]


def _is_critical(result: InferenceResult, context: EncodingContext) -> bool:
    return not context.report.is_withdrawn and any(f.critical for f in result.findings)


def _is_electrocardiogram(request: InferenceRequest) -> bool:
    return any(series.modality == "ECG" for series in request.series)


# --- observations ----------------------------------------------------------------------------


def _results(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> tuple[str, ...]:
    rows = Observations(request, card, context)
    status = _text_status(request, result, context)
    withdrawn = context.report.is_withdrawn
    outcome = WITHDRAWN_CODE if withdrawn else OUTCOME_CODES[result.outcome]
    rows.add(coded_element(OUTCOME_CONCEPT), status, coded=outcome)
    flag = "AA" if _is_critical(result, context) else ""
    text = conclusion(request, result, card, context)
    for number, part in enumerate(_parts(text), start=1):
        sub_id = str(number) if number > 1 else ""
        value = formatted(part)
        rows.add(coded_element(CONCLUSION), status, "FT", value, sub_id=sub_id, flag=flag)
    told: set[_Row] = set() if withdrawn else _report(rows, result, card, status)
    for findings in (result.findings, context.report.replaced_findings):
        _withdraw(rows, findings, told)
    _refer(rows, request, related, status)
    _withdraw_objects(rows, context, related)
    return tuple(rows.segments)


def _parts(text: str) -> list[str]:
    return [text[at : at + _TEXT_LENGTH] for at in range(0, len(text), _TEXT_LENGTH)]


_Row = tuple[Code, str]
"""OBX-3 and OBX-4: what a later message replaces."""


def _report(rows: Observations, result: InferenceResult, card: ModelCard, status: str) -> set[_Row]:
    """The findings, and what was asked and has no answer; returns what was told."""
    told: set[_Row] = set()
    for finding, sub_id in sub_identifiers(result.findings):
        told.add((finding.code, sub_id))
        _tell(rows, result, card, finding, sub_id=sub_id, status=status)
        for concept, place in _places(finding):
            if (concept, sub_id) not in told:
                told.add((concept, sub_id))
                rows.add(coded_element(concept), status, coded=place, sub_id=sub_id)
    if result.outcome is not Outcome.ASSESSED:
        _leave_open(rows, result, card, told)
    return told


def _places(finding: Finding) -> tuple[tuple[Code, Code], ...]:
    """Where it lies: concepts and their values."""
    places = ((FINDING_SITE, finding.finding_site), (LATERALITY, finding.laterality))
    return tuple((concept, place) for concept, place in places if place is not None)


def _tell(
    rows: Observations,
    result: InferenceResult,
    card: ModelCard,
    finding: Finding,
    *,
    sub_id: str,
    status: str,
) -> None:
    """One finding: a number, a code, an explicit "absent"; or that it could not be told."""
    asked = _asked(finding)
    notes = (finding.statement,)
    if finding.presence is Presence.NOT_ASSESSABLE:
        told = (unanswered_statement(result), finding.statement)
        rows.add(asked, _CANNOT_BE_OBTAINED, sub_id=sub_id, notes=told)
        return
    if result.outcome is not Outcome.ASSESSED:
        raise RejectedError(f"a result that is {result.outcome} answers a question")
    flag = _abnormal_flag(finding, card) if finding.critical else ""
    probability = "" if finding.probability is None else f"{finding.probability:.3f}"
    if finding.value is not None and finding.unit is not None:
        rows.add(
            asked,
            status,
            "NM",
            _number(finding.value),
            sub_id=sub_id,
            unit=_unit(finding.unit),
            flag=flag,
            probability=probability,
            notes=notes,
        )
        return
    if finding.presence is not None:
        answer = PRESENCE_CODES[finding.presence]
    elif finding.coded_value is not None:
        answer = finding.coded_value
    else:
        raise RejectedError("a finding has no answer")
    rows.add(
        asked,
        status,
        coded=answer,
        sub_id=sub_id,
        flag=flag,
        probability=probability,
        notes=notes,
    )


def _asked(finding: Finding | FindingSpec) -> str:
    """What was looked for; with its side for people, and with our own name for it."""
    side = getattr(finding, "laterality", None)
    name = finding.tracking_identifier
    text = finding.code.code_meaning + (f", {side.code_meaning.lower()}" if side else "")
    return coded_element(finding.code, text, local=name, local_text=name)


def _leave_open(
    rows: Observations, result: InferenceResult, card: ModelCard, told: set[_Row]
) -> None:
    """What the model would have answered, so that nobody takes silence for "nothing found". It
    has the OBX-4 of a finding of that name: what was answered before is replaced, and so is this
    by a later answer."""
    answered = {(finding.tracking_identifier, finding.code) for finding in result.findings}
    for spec in card.output.findings:
        row = (spec.code, sub_identifier(spec.tracking_identifier))
        if row not in told and (spec.tracking_identifier, spec.code) not in answered:
            told.add(row)
            note = (unanswered_statement(result),)
            rows.add(_asked(spec), _CANNOT_BE_OBTAINED, sub_id=row[1], notes=note)


def _withdraw(rows: Observations, findings: tuple[Finding, ...], told: set[_Row]) -> None:
    """Findings of an earlier message that do not hold (any more), and where they lay."""
    for finding, sub_id in sub_identifiers(findings):
        asked = ((finding.code, _asked(finding)),)
        places = tuple((concept, coded_element(concept)) for concept, _ in _places(finding))
        for code, identifier in asked + places:
            if (code, sub_id) not in told:
                told.add((code, sub_id))
                rows.add(identifier, _WRONG, "ST", WITHDRAWN, sub_id=sub_id)


def _withdraw_objects(
    rows: Observations, context: EncodingContext, related: Mapping[DocumentKind, Document]
) -> None:
    """DICOM objects of an earlier message that this one does not name any more."""
    for kind in dict.fromkeys(one.kind for one in context.report.predecessors):
        if kind not in related:
            rows.add(coded_element(SOP_INSTANCE), _WRONG, "ST", WITHDRAWN, sub_id=kind.value)


def _refer(
    rows: Observations,
    request: InferenceRequest,
    related: Mapping[DocumentKind, Document],
    status: str,
) -> None:
    """The study, the DICOM objects of the same result, and the page for people."""
    if not request.study.is_case:
        study = request.study.study_instance_uid
        rows.add(coded_element(DICOM_STUDY), _NO_RESULT, "ST", escaped(study))
    for kind, document in related.items():
        if kind in DICOM_KINDS:
            uid, name = escaped(document.document_id), escaped(kind.value)
            rows.add(coded_element(SOP_INSTANCE), _NO_RESULT, "ST", uid, sub_id=name)
    page = related.get(DocumentKind.PDF)
    if page is not None:
        code = _REPORTS[_service(request)]
        content = b64encode(page.content).decode("ascii")
        encapsulated = components("", "application", "pdf", "Base64", content)
        rows.add(coded_element(code), status, "ED", encapsulated)


def _abnormal_flag(finding: Finding, card: ModelCard) -> str:
    """Table 0078: critically high or low where a rule of the model says so, else critical."""
    if finding.value is not None:
        for rule in card.output.critical:
            if not rule.applies(finding):
                continue
            if rule.above is not None and finding.value > rule.above:
                return "HH"
            if rule.below is not None and finding.value < rule.below:
                return "LL"
    return "AA"


def _number(value: float) -> str:
    """NM (2.A.47): digits without an exponent."""
    if not math.isfinite(value):
        raise RejectedError("a measured value is not a finite number")
    return f"{Decimal(f'{value:.{_MOST_DIGITS}g}'):f}"


def _unit(unit: Code) -> str:
    if unit.coding_scheme_designator != "UCUM":
        raise RejectedError(f"a unit is not from UCUM but from {unit.coding_scheme_designator}")
    return coded_element(unit)
