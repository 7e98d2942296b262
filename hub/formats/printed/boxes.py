"""The boxes of the printed report that cannot be overlooked, the most important first."""

from __future__ import annotations

from collections.abc import Sequence

from reportlab.lib.colors import HexColor
from reportlab.platypus import Flowable, Paragraph, Spacer, Table

from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.report import ReportVersion
from hub.formats.encoding import amendment_statement, incomplete_statement
from hub.formats.printed import style, words
from hub.formats.report_state import (
    NO_STATEMENT,
    OUTCOME_TITLES,
    WITHDRAWN_NOTE,
    critical_statement,
    responsible,
    version_statement,
)


def boxes(
    request: InferenceRequest, result: InferenceResult, version: ReportVersion
) -> list[Flowable]:
    """What stands before any finding: that the report is withdrawn; else what is critical, and
    that there was no answer; that it replaces another one, who answers for it, what is missing."""
    first = _withdrawal(version) if version.is_withdrawn else _critical(result)
    return [*first, *_outcome(result), *_standing(request, version)]


def alert(
    content: Sequence[Paragraph],
    *,
    panel: HexColor = style.ALERT_PANEL,
    mark: HexColor = style.MARK,
) -> Table:
    """A box, which may go on over several pages."""
    rows = [[item] for item in content]
    table = Table(rows, colWidths=[style.CONTENT_WIDTH], splitInRow=1)
    table.setStyle(
        [
            ("BACKGROUND", (0, 0), (-1, -1), panel),
            ("LINEBEFORE", (0, 0), (0, -1), 5, mark),
            ("LEFTPADDING", (0, 0), (-1, -1), 14),
            ("TOPPADDING", (0, 0), (-1, -1), 3),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
        ]
    )
    return table


def paragraph(text: str, look: object) -> Paragraph:
    """Words as they are, not as markup."""
    return Paragraph(words.printable(text, style.has_glyph), look)


def struck(text: str, look: object) -> Paragraph:
    """Words that do not hold any more."""
    return Paragraph(f"<strike>{words.printable(text, style.has_glyph)}</strike>", look)


def _withdrawal(version: ReportVersion) -> list[Flowable]:
    reason = f" Reason: {version.reason}" if version.reason else ""
    said = [f"{WITHDRAWN_NOTE}.{reason}", responsible(version)]
    return _red([line for line in said if line])


def _critical(result: InferenceResult) -> list[Flowable]:
    said = critical_statement(result)
    return _red([said]) if said else []


def _red(lines: Sequence[str]) -> list[Flowable]:
    first, *others = lines
    content = [paragraph(first, style.CRITICAL_TITLE)]
    content += [paragraph(line, style.ALERT_TEXT) for line in others]
    box = alert(content, panel=style.CRITICAL_PANEL, mark=style.WITHDRAWN)
    return [Spacer(0, 10), box]


def _outcome(result: InferenceResult) -> list[Flowable]:
    """Where the model gave no answer."""
    if result.outcome is Outcome.ASSESSED:
        return []
    box = [
        paragraph(OUTCOME_TITLES[result.outcome], style.ALERT_TITLE),
        paragraph(NO_STATEMENT, style.ALERT_TEXT),
        *(paragraph(f"Reason: {reason}", style.ALERT_TEXT) for reason in result.reasons),
    ]
    return [Spacer(0, 10), alert(box)]


def _standing(request: InferenceRequest, version: ReportVersion) -> list[Flowable]:
    """That the page replaces an earlier one, on whose word, and that images are missing."""
    said = [
        version_statement(version),
        "" if version.is_withdrawn else responsible(version).rstrip("."),
        amendment_statement(request),
        incomplete_statement(request),
    ]
    lines = [paragraph(f"{line.rstrip('.')}.", style.ALERT_TEXT) for line in said if line]
    return [Spacer(0, 10), alert(lines)] if lines else []
