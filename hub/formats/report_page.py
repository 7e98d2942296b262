"""The printed report: what it says, from top to bottom, and the mark on every page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import compress

from reportlab.pdfgen.canvas import Canvas
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
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import ModelCard
from hub.formats import report_style as style
from hub.formats import report_text as words
from hub.formats.encoding import (
    AI_MARK,
    PRODUCT_NAME,
    EncodingContext,
    amendment_statement,
    incomplete_statement,
)

_OUTCOME_TITLES = {
    Outcome.NOT_ASSESSABLE: "NOT ASSESSABLE",
    Outcome.UNSUITABLE: "NOT PROCESSED: OUTSIDE INTENDED USE",
}
_COLUMN_SHARES = (0.34, 0.18, 0.24, 0.1, 0.14)
_NO_ANSWER = (Presence.NOT_ASSESSABLE, Presence.INDETERMINATE)

Pairs = Sequence[tuple[str, str]]


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
    style.register_fonts()
    buffer = io.BytesIO()
    title = f"{AI_MARK}: {card.procedure.title}"
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
    page = _Page(context.institution_name, f"{footer} · {made_at:%Y-%m-%d %H:%M:%S %Z}")
    document.addPageTemplates(PageTemplate("page", [frame], onPage=page.draw))
    document.build(_story(request, result, card, related), canvasmaker=_NumberedCanvas)
    return buffer.getvalue()


def _story(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    related: Mapping[DocumentKind, Document],
) -> list[Flowable]:
    return [
        *_title(card),
        _identification(request),
        *_standing(request),
        *_outcome(result),
        *_findings(result, card),
        *_statements(result),
        *_warnings(result),
        *_model(card),
        *_evidence(request, result, card, related),
    ]


class _NumberedCanvas(Canvas):  # type: ignore[misc]  # reportlab has no types
    """Says on each page how many there are, so that a missing one is noticed."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **settings)
        self._pages: list[dict[str, object]] = []

    def showPage(self) -> None:  # noqa: N802 - reportlab's name
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        for number, page in enumerate(self._pages, start=1):
            self.__dict__.update(page)
            self.setFillColor(style.MUTED)
            self.setFont(style.REGULAR, 7.4)
            right = style.PAGE_WIDTH - style.MARGIN
            text = f"Page {number} of {len(self._pages)}"
            self.drawRightString(right, style.FOOTER_HEIGHT - 12, text)
            super().showPage()
        super().save()


class _Page:
    """The band at the top and the line at the foot of every page."""

    def __init__(self, institution_name: str, footer: str) -> None:
        self._institution_name = institution_name
        self._footer = footer

    def draw(self, canvas: Canvas, _: BaseDocTemplate) -> None:
        canvas.saveState()
        bottom = style.PAGE_HEIGHT - style.BAND_HEIGHT
        canvas.setFillColor(style.MARK)
        canvas.rect(0, bottom, style.PAGE_WIDTH, style.BAND_HEIGHT, stroke=0, fill=1)
        canvas.setFillColor(style.WHITE)
        canvas.setFont(style.BOLD, 22)
        canvas.drawString(style.MARGIN, bottom + 28, AI_MARK.upper())
        canvas.setFont(style.REGULAR, 9.5)
        subtitle = "Made by software. No physician has confirmed it."
        canvas.drawString(style.MARGIN, bottom + 13, subtitle)
        right = style.PAGE_WIDTH - style.MARGIN
        canvas.drawRightString(right, bottom + 13, _fitting(self._institution_name))
        canvas.setStrokeColor(style.HAIRLINE)
        canvas.line(style.MARGIN, style.FOOTER_HEIGHT, right, style.FOOTER_HEIGHT)
        canvas.setFillColor(style.MUTED)
        canvas.setFont(style.REGULAR, 7.4)
        canvas.drawString(style.MARGIN, style.FOOTER_HEIGHT - 12, _fitting(self._footer, 110))
        canvas.restoreState()


def _fitting(text: str, limit: int = 60) -> str:
    shown = words.plain(text, style.has_glyph)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def _paragraph(text: str, look: object) -> Paragraph:
    return Paragraph(words.printable(text, style.has_glyph), look)


def _title(card: ModelCard) -> list[Flowable]:
    model = f"{card.name}, version {card.version}, by {card.vendor.name}"
    return [_paragraph(card.procedure.title, style.TITLE), _paragraph(model, style.SUBTITLE)]


def _identification(request: InferenceRequest) -> Flowable:
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
        ("Examined", f"{words.date(study.study_date)} {words.time(study.study_time)}"),
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


def _modalities(request: InferenceRequest) -> str:
    """What kind of study it is, where it has no description."""
    return ", ".join(request.study.modalities_in_study) or "not given"


def _pairs(pairs: Pairs, width: float) -> Table:
    rows = []
    for index, (label, value) in enumerate(pairs):
        look = style.STRONG if index == 0 else style.VALUE
        rows.append([_paragraph(label, style.LABEL), _paragraph(value, look)])
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


def _standing(request: InferenceRequest) -> list[Flowable]:
    """That images are missing, or that the page replaces an earlier one: before any finding."""
    said = [s for s in (amendment_statement(request), incomplete_statement(request)) if s]
    if not said:
        return []
    return [Spacer(0, 10), _alert([_paragraph(f"{line}.", style.ALERT_TEXT) for line in said])]


def _outcome(result: InferenceResult) -> list[Flowable]:
    """A box that cannot be overlooked, where the model gave no answer."""
    if result.outcome is Outcome.ASSESSED:
        return []
    box = [
        _paragraph(_OUTCOME_TITLES[result.outcome], style.ALERT_TITLE),
        _paragraph("This is neither a positive nor a negative result.", style.ALERT_TEXT),
        *(_paragraph(f"Reason: {reason}", style.ALERT_TEXT) for reason in result.reasons),
    ]
    return [Spacer(0, 10), _alert(box)]


def _alert(content: list[Paragraph]) -> Table:
    rows = [[item] for item in content]
    table = Table(rows, colWidths=[style.CONTENT_WIDTH], splitInRow=1)
    table.setStyle(
        [
            ("BACKGROUND", (0, 0), (-1, -1), style.ALERT_PANEL),
            ("LINEBEFORE", (0, 0), (0, -1), 5, style.MARK),
            ("LEFTPADDING", (0, 0), (-1, -1), 14),
            ("TOPPADDING", (0, 0), (-1, -1), 3),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
        ]
    )
    return table


def _findings(result: InferenceResult, card: ModelCard) -> list[Flowable]:
    if not result.findings:
        return []
    with_unit = any(finding.unit is not None for finding in result.findings)
    with_probability = any(finding.probability is not None for finding in result.findings)
    shown = [True, True, True, with_unit, with_probability]
    header = [
        _paragraph("Finding", style.COLUMN),
        _paragraph("Site", style.COLUMN),
        _paragraph("Result", style.COLUMN_RIGHT),
        _paragraph("Unit", style.COLUMN),
        _paragraph("Probability", style.COLUMN_RIGHT),
    ]
    rows = [header, *(_finding_row(finding, card) for finding in result.findings)]
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
    return [_paragraph("FINDINGS", style.HEADING), table]


def _finding_row(finding: Finding, card: ModelCard) -> list[Paragraph]:
    look = style.CELL_ALERT if finding.presence in _NO_ANSWER else style.CELL_RIGHT
    unit = words.unit(finding.unit) if finding.unit is not None else ""
    return [
        _paragraph(finding.code.code_meaning, style.CELL),
        _paragraph(words.site(finding), style.CELL),
        _paragraph(words.answer(finding, card), look),
        _paragraph(unit, style.CELL),
        _paragraph(words.probability(finding), style.CELL_PLAIN_RIGHT),
    ]


def _statements(result: InferenceResult) -> list[Flowable]:
    statements = list(dict.fromkeys(f.statement for f in result.findings if f.statement))
    return _section("IN WORDS", statements)


def _warnings(result: InferenceResult) -> list[Flowable]:
    if not result.warnings:
        return []
    lines = [_paragraph(f"Note: {warning}", style.ALERT_TEXT) for warning in result.warnings]
    return [Spacer(0, 8), _alert(lines)]


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
    shown = [_paragraph(f"{mark}{line}", style.BODY) for line in lines]
    first = KeepTogether([_paragraph(heading, style.HEADING), shown[0]])
    return [first, *shown[1:]]


def _evidence(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    related: Mapping[DocumentKind, Document],
) -> list[Flowable]:
    study = request.study
    series = request.series
    count = sum(len(s.instances) for s in series)
    cited = {e.sop_instance_uid for f in result.findings for e in f.evidence}
    given = f"Given to the model: {_counted(count, 'object')} in {len(series)} series"
    rest_on = f"; the findings rest on {len(cited)} of them" if result.findings else ""
    lines = [
        f"{given}{rest_on}. Revision {study.key.revision} of the study.",
        f"Study Instance UID: {study.study_instance_uid}",
        *(f"Series Instance UID: {s.series_instance_uid} ({s.modality})" for s in series),
        *(_related_line(kind, document) for kind, document in sorted(related.items())),
        f"Request: {request.request_id}. Route: {request.route}.",
        f"Model: {card.id} {card.version}, SHA-256 {request.model.sha256}",
    ]
    shown = [_paragraph(line, style.SMALL) for line in lines]
    return [KeepTogether([_paragraph("EVIDENCE AND IDENTIFIERS", style.HEADING), *shown])]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _related_line(kind: DocumentKind, document: Document) -> str:
    return f"Related {kind.value.upper().replace('_', ' ')}: {document.document_id}"
