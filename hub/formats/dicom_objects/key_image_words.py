"""What stands on key images: states first, then what was found."""

from __future__ import annotations

from collections.abc import Sequence

from hub.domain.finding import Finding
from hub.domain.inference import InferenceRequest, InferenceResult, Outcome
from hub.domain.model_card import ModelCard
from hub.domain.study import Instance
from hub.formats.dicom_objects.modules import local_time
from hub.formats.encoding import (
    EncodingContext,
    amendment_statement,
    incomplete_statement,
)
from hub.formats.printed import words as text
from hub.formats.printed.key_picture import CRITICAL, MARK, NOTICE, WITHDRAWN, Frame, Line
from hub.formats.printed.places import image_name
from hub.formats.report_state import (
    NO_STATEMENT,
    OUTCOME_TITLES,
    critical_statement,
    standing_title,
    withdrawal_statement,
)

NOT_ALONE = "Not for diagnosis on its own: look at the original images."


def frame(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    page: str,
) -> Frame:
    """The band, what must not be overlooked, and the foot of one picture; no name, no number of
    the patient."""
    version = context.report
    stripes = []
    if version.is_withdrawn:
        stripes.append((withdrawal_statement(version), WITHDRAWN))
    elif critical := critical_statement(result):
        stripes.append((critical, CRITICAL))
    standing = (incomplete_statement(request), amendment_statement(request))
    stripes += [(line, NOTICE) for line in standing if line]
    if result.outcome is not Outcome.ASSESSED:
        stripes.append((f"{OUTCOME_TITLES[result.outcome]}. {NO_STATEMENT}", CRITICAL))
    made_at = f"{local_time(request, context):%Y-%m-%d %H:%M %Z}"
    return Frame(
        title=standing_title(version),
        subtitle=NOT_ALONE,
        model=f"{card.name} {card.version}, {card.vendor.name}",
        colour=WITHDRAWN if version.is_withdrawn else MARK,
        stripes=tuple(stripes),
        footer=f"{page} · made {made_at} · {context.institution_name} · {card.procedure.title}",
    )


def summary(
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    findings: Sequence[Finding],
) -> list[Line]:
    """A card of what lies on no image."""
    if context.report.is_withdrawn:
        said = [Line("This AI result must not be used.", is_heading=True)]
        reason = context.report.reason
        return [*said, *([Line(f"Reason: {reason}")] if reason else [])]
    lines = [Line(card.procedure.title, is_heading=True)]
    lines += [Line(f"Reason: {reason}") for reason in result.reasons]
    lines += [Line(finding(one, card)) for one in findings]
    statements = dict.fromkeys(one.statement for one in findings if one.statement)
    lines += [Line(statement) for statement in statements]
    lines += [Line(f"Note: {warning}") for warning in result.warnings]
    return [*lines, Line(f"{standing_title(context.report)}. {NOT_ALONE}")]


def image_title(instance: Instance, frame_number: int | None) -> str:
    """Which image it is, as a reader finds it."""
    name = image_name(instance, frame_number)
    return name[0].upper() + name[1:]


def finding(one: Finding, card: ModelCard) -> str:
    """One finding in a line."""
    site = text.site(one)
    where = f" ({site})" if site else ""
    sure = f", probability {text.probability(one)}" if one.probability is not None else ""
    urgent = "CRITICAL: " if one.critical else ""
    return f"{urgent}{one.code.code_meaning}{where}: {_answer(one, card)}{sure}"


def label(one: Finding, card: ModelCard) -> str:
    """A few words beside a graphic."""
    return f"{one.code.code_meaning} {_answer(one, card)}"


def _answer(one: Finding, card: ModelCard) -> str:
    unit = text.unit(one.unit) if one.unit is not None else ""
    return f"{text.answer(one, card)} {unit}".strip()
