"""The report in sentences, for people who read it in a system that shows text alone. They are those
of the FHIR report, so that both say the same."""

from __future__ import annotations

from collections.abc import Iterator

from hub.domain.finding import Finding
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import ModelCard
from hub.formats.case_values import value_lines
from hub.formats.encoding import EncodingContext
from hub.formats.fhir.status import headlines
from hub.formats.printed.words import answer, site, unit
from hub.formats.report_state import (
    NO_STATEMENT,
    OUTCOME_TITLES,
    critical_statement,
    standing,
    withdrawal_statement,
)

WITHDRAWN = "WITHDRAWN"


def statements(
    request: InferenceRequest, result: InferenceResult, context: EncodingContext
) -> tuple[str, ...]:
    """What has to be known before the findings, the most important first. Of a report that was
    withdrawn only that, by whom and why."""
    if context.report.is_withdrawn:
        return (withdrawal_statement(context.report),)
    return tuple(text for text in _standing(request, result, context) if text)


def _standing(
    request: InferenceRequest, result: InferenceResult, context: EncodingContext
) -> Iterator[str]:
    yield standing(context.report)
    yield critical_statement(result)
    yield from headlines(request, result, context)
    if result.outcome is not Outcome.ASSESSED:
        yield NO_STATEMENT
    for warning in result.warnings:
        yield f"Note: {warning}"


def unanswered_statement(result: InferenceResult) -> str:
    """Why a question has no answer."""
    said = OUTCOME_TITLES.get(result.outcome, OUTCOME_TITLES[Outcome.NOT_ASSESSABLE])
    reasons = "; ".join(result.reasons)
    return f"{said}: {reasons}" if reasons else said


def conclusion(
    request: InferenceRequest, result: InferenceResult, card: ModelCard, context: EncodingContext
) -> str:
    """The whole report: a line for each statement, then for each finding, then who made it. Of a
    report that was withdrawn no finding is told."""
    lines = list(statements(request, result, context))
    if not context.report.is_withdrawn:
        lines += [_line(finding, card) for finding in result.findings]
        lines += value_lines(request, card, context.timezone)
    lines.append(f"AI: {card.name} {card.version}, {card.vendor.name}")
    return "\n".join(lines)


def _line(finding: Finding, card: ModelCard) -> str:
    urgent = "CRITICAL: " if finding.critical else ""
    place = f" ({site(finding)})" if site(finding) else ""
    measure = f" {unit(finding.unit)}".rstrip() if finding.unit is not None else ""
    sentence = f". {finding.statement}" if finding.statement else ""
    said = f"{answer(finding, card)}{measure}{sentence}"
    return f"{urgent}{finding.code.code_meaning}{place}: {said}"
