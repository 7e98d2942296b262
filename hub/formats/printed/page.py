"""The printed report: what it says, from top to bottom, and the mark on every page."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import compress

from reportlab.platypus import (
    BaseDocTemplate,
    Flowable,
    Frame,
    KeepTogether,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
)

from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Finding, Presence
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.domain.report import ReportVersion
from hub.formats.case_values import measured_at, value_lines
from hub.formats.encoding import PRODUCT_NAME, EncodingContext
from hub.formats.printed import style, words
from hub.formats.printed.boxes import alert, boxes, paragraph, struck
from hub.formats.printed.frame import NumberedCanvas, Page
from hub.formats.printed.places import locations, map_line
from hub.formats.report_state import (
    predecessor_lines,
    standing_title,
    version_statement,
)

_COLUMN_SHARES = (0.34, 0.18, 0.24, 0.1, 0.14)
_NO_ANSWER = (Presence.NOT_ASSESSABLE, Presence.INDETERMINATE)

Pairs = Sequence[tuple[str, str]]

_one_at_a_time = threading.Lock()
"""A font of reportlab cannot be used for two documents at the same time (``ttfonts.TTFont``): it
reads its file at one position for all."""


def render(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    *,
    made_at: datetime,
    related: Mapping[DocumentKind, Document],
) -> bytes:
    """A4 pages as PDF 1.4; the same input gives the same bytes. ``made_at`` is local time."""
    with _one_at_a_time:
        return _rendered(request, result, card, context, made_at=made_at, related=related)


def _rendered(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    *,
    made_at: datetime,
    related: Mapping[DocumentKind, Document],
) -> bytes:
    style.register_fonts()
    buffer = io.BytesIO()
    title = f"{standing_title(context.report)}: {card.procedure.title}"
    document = BaseDocTemplate(
        buffer,
        pagesize=(style.PAGE_WIDTH, style.PAGE_HEIGHT),
        title=title,
        author=context.institution_name,
        creator=f"{PRODUCT_NAME} {context.software_version}",
        lang="en",
        invariant=1,
    )
    frame = Frame(
        style.MARGIN,
        style.FOOTER_HEIGHT,
        style.CONTENT_WIDTH,
        style.PAGE_HEIGHT - style.BAND_HEIGHT - style.FOOTER_HEIGHT,
        leftPadding=0,
        rightPadding=0,
        topPadding=12,
        bottomPadding=4,
    )
    footer = f"{card.name} {card.version} · {request.study.patient.patient_id}"
    page = Page(
        context.institution_name,
        f"{footer} · {made_at:%Y-%m-%d %H:%M:%S %Z}",
        context.report,
    )
    document.addPageTemplates(PageTemplate("page", [frame], onPage=page.draw))
    document.build(_story(request, result, card, context, related), canvasmaker=NumberedCanvas)
    return buffer.getvalue()


def _story(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> list[Flowable]:
    version = context.report
    return [
        *_title(card),
        _identification(request, context),
        *boxes(request, result, version),
        *_findings(result, card, version),
        *_statements(result, version),
        *_values(request, card, context),
        *_places(request, result, version),
        *_warnings(result),
        *_model(card),
        *_evidence(request, result, card, version, related),
    ]


def _title(card: ModelCard) -> list[Flowable]:
    model = f"{card.name}, version {card.version}, by {card.vendor.name}"
    return [paragraph(card.procedure.title, style.TITLE), paragraph(model, style.SUBTITLE)]


def _identification(request: InferenceRequest, context: EncodingContext) -> Flowable:
    study, patient = request.study, request.study.patient
    issuer = f" ({patient.issuer_of_patient_id})" if patient.issuer_of_patient_id else ""
    accession = study.accession_number or "not given"
    left = [
        ("Patient", words.person_name(patient.patient_name)),
        ("Patient ID", f"{patient.patient_id or 'not given'}{issuer}"),
        ("Born", words.date(patient.patient_birth_date)),
        ("Sex", patient.patient_sex or "not given"),
    ]
    right = [
        ("Examination", study.study_description or _modalities(request)),
        ("Examined", _examined(request, context)),
        ("Accession number", accession),
        ("Referring physician", words.person_name(study.referring_physician_name)),
    ]
    half = style.CONTENT_WIDTH / 2
    table = Table([[_pairs(left, half - 20), _pairs(right, half - 20)]], colWidths=[half, half])
    table.setStyle(
        [
            ("BACKGROUND", (0, 0), (-1, -1), style.PANEL),
            ("ROUNDEDCORNERS", [5, 5, 5, 5]),
            ("LEFTPADDING", (0, 0), (-1, -1), 10),
            ("RIGHTPADDING", (0, 0), (-1, -1), 10),
            ("TOPPADDING", (0, 0), (-1, -1), 7),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 7),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ]
    )
    return table


def _examined(request: InferenceRequest, context: EncodingContext) -> str:
    """The time of the study, or of the newest of the values."""
    study = request.study
    if study.is_case:
        return f"{measured_at(request).astimezone(context.timezone):%Y-%m-%d %H:%M}"
    return f"{words.date(study.study_date)} {words.time(study.study_time)}"


def _modalities(request: InferenceRequest) -> str:
    """What kind of study it is, where it has no description."""
    if request.study.is_case:
        return "Measured values"
    return ", ".join(request.study.modalities_in_study) or "not given"


def _pairs(pairs: Pairs, width: float) -> Table:
    rows = []
    for index, (label, value) in enumerate(pairs):
        look = style.STRONG if index == 0 else style.VALUE
        rows.append([paragraph(label, style.LABEL), paragraph(value, look)])
    table = Table(rows, colWidths=[width * 0.31, width * 0.69])
    table.setStyle(
        [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (0, 0), (-1, -1), 4),
            ("TOPPADDING", (0, 0), (-1, -1), 1.2),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 1.2),
        ]
    )
    return table


def _findings(result: InferenceResult, card: ModelCard, version: ReportVersion) -> list[Flowable]:
    if not result.findings:
        return []
    with_unit = any(finding.unit is not None for finding in result.findings)
    with_probability = any(finding.probability is not None for finding in result.findings)
    with_site = any(words.site(finding) for finding in result.findings)
    shown = [True, with_site, True, with_unit, with_probability]
    header = [
        paragraph("Finding", style.COLUMN),
        paragraph("Site", style.COLUMN),
        paragraph("Result", style.COLUMN_RIGHT),
        paragraph("Unit", style.COLUMN),
        paragraph("Probability", style.COLUMN_RIGHT),
    ]
    write = struck if version.is_withdrawn else paragraph
    rows = [header, *(_finding_row(finding, card, write) for finding in result.findings)]
    shares = list(compress(_COLUMN_SHARES, shown))
    widths = [style.CONTENT_WIDTH * share / sum(shares) for share in shares]
    table = Table([list(compress(row, shown)) for row in rows], colWidths=widths, repeatRows=1)
    table.setStyle(
        [
            ("LINEBELOW", (0, 0), (-1, 0), 0.9, style.INK),
            ("LINEBELOW", (0, 1), (-1, -1), 0.4, style.HAIRLINE),
            ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
            ("LEFTPADDING", (0, 0), (0, -1), 0),
            ("RIGHTPADDING", (-1, 0), (-1, -1), 0),
        ]
    )
    return [paragraph("FINDINGS", style.HEADING), table]


def _finding_row(
    finding: Finding, card: ModelCard, write: Callable[[str, object], Paragraph]
) -> list[Paragraph]:
    is_red = finding.presence in _NO_ANSWER or finding.critical
    unit = words.unit(finding.unit) if finding.unit is not None else ""
    name = finding.code.code_meaning
    return [
        write(f"CRITICAL: {name}" if finding.critical else name, style.CELL),
        write(words.site(finding), style.CELL),
        write(words.answer(finding, card), style.CELL_ALERT if is_red else style.CELL_RIGHT),
        write(unit, style.CELL),
        write(words.probability(finding), style.CELL_PLAIN_RIGHT),
    ]


def _statements(result: InferenceResult, version: ReportVersion) -> list[Flowable]:
    """Sentences about the patient; of a withdrawn report they are not repeated."""
    if version.is_withdrawn:
        return []
    statements = list(dict.fromkeys(f.statement for f in result.findings if f.statement))
    return _section("IN WORDS", statements)


def _places(
    request: InferenceRequest, result: InferenceResult, version: ReportVersion
) -> list[Flowable]:
    """Where to look; nowhere, where the report is withdrawn."""
    if version.is_withdrawn:
        return []
    return [
        *_section("LOCATIONS", locations(request, result), bullet=True),
        *_section("PARAMETRIC MAPS", [map_line(one) for one in result.maps], bullet=True),
    ]


def _values(request: InferenceRequest, card: ModelCard, context: EncodingContext) -> list[Flowable]:
    """What the model was given of a case."""
    return _section("MEASURED VALUES", value_lines(request, card, context.timezone), bullet=True)


def _warnings(result: InferenceResult) -> list[Flowable]:
    if not result.warnings:
        return []
    lines = [paragraph(f"Note: {warning}", style.ALERT_TEXT) for warning in result.warnings]
    return [Spacer(0, 8), alert(lines)]


def _model(card: ModelCard) -> list[Flowable]:
    use = card.intended_use
    limits = [f"Not for {limit}" for limit in use.not_for]
    device = (
        f"Medical device, class {card.regulation.mdr_class or 'not given'}"
        if card.regulation.medical_device
        else "Not a medical device: not for clinical decisions."
    )
    claims = [f"{c.metric}: {c.value} ({c.population})" for c in card.claims]
    return [
        *_section("INTENDED PURPOSE", [use.purpose]),
        *_section("LIMITS", [*limits, device], bullet=True),
        *_section("PERFORMANCE, AS THE VENDOR STATES IT", claims, bullet=True),
    ]


def _section(heading: str, lines: Sequence[str], *, bullet: bool = False) -> list[Flowable]:
    if not lines:
        return []
    mark = "• " if bullet else ""
    shown = [paragraph(f"{mark}{line}", style.BODY) for line in lines]
    first = KeepTogether([paragraph(heading, style.HEADING), shown[0]])
    return [first, *shown[1:]]


def _evidence(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    version: ReportVersion,
    related: Mapping[DocumentKind, Document],
) -> list[Flowable]:
    study = request.study
    lines = [
        *(_values_given(request) if study.is_case else _images_given(request, result)),
        *(f"{said}." for said in [version_statement(version)] if said),
        *predecessor_lines(version),
        *(_related_line(kind, document) for kind, document in sorted(related.items())),
        f"Request: {request.request_id}. Route: {request.route}.",
        f"Model: {card.id} {card.version}, SHA-256 {request.model.sha256}",
    ]
    shown = [paragraph(line, style.SMALL) for line in lines]
    return [KeepTogether([paragraph("EVIDENCE AND IDENTIFIERS", style.HEADING), *shown])]


def _images_given(request: InferenceRequest, result: InferenceResult) -> list[str]:
    study, series = request.study, request.series
    count = sum(len(s.instances) for s in series)
    cited = {e.sop_instance_uid for f in result.findings for e in f.evidence}
    given = f"Given to the model: {_counted(count, 'object')} in {len(series)} series"
    rest_on = f"; the findings rest on {len(cited)} of them" if result.findings else ""
    return [
        f"{given}{rest_on}. Revision {study.key.revision} of the study.",
        f"Study Instance UID: {study.study_instance_uid}",
        *(f"Series Instance UID: {s.series_instance_uid} ({s.modality})" for s in series),
    ]


def _values_given(request: InferenceRequest) -> list[str]:
    """Where the values stand, and which of those that were found they are."""
    given, found = len(request.observations), len(request.study.observations)
    known = [one.reference for one in request.observations if one.reference]
    return [f"Given to the model: {_counted(given, 'value')} of {found} that were found.", *known]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _related_line(kind: DocumentKind, document: Document) -> str:
    return f"Related {kind.value.upper().replace('_', ' ')}: {document.document_id}"
