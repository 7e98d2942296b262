"""Which study goes to which model, and why.

``match`` is pure: a study and a route in, an answer with its reasons out. A rule that
cannot be evaluated is a third answer, never "no match".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from hub.domain.critical import CriticalRule
from hub.domain.inference import Priority
from hub.domain.study import Series, Study

LOINC = "LN"
"""Coding scheme designator (PS3.16 section 8)."""

Variables = Mapping[str, object]
"""What an expression may see: JSON-like values by name."""


class RuleFailedError(Exception):
    """An expression could not be evaluated; the message holds no patient data."""


class Predicate(Protocol):
    """A compiled rule expression."""

    @property
    def text(self) -> str:
        """The expression as a person wrote it."""
        ...

    def __call__(self, variables: Variables) -> bool:
        """Evaluate.

        Raises:
            RuleFailedError: a missing attribute, a wrong type, an exhausted budget.
        """
        ...


class RouteMode(StrEnum):
    ACTIVE = "active"
    SHADOW = "shadow"
    """The model runs and is recorded, nothing is delivered."""


class RouteStart(StrEnum):
    """What a route waits for."""

    STUDY = "study"
    SERIES = "series"
    """A series that it selects is complete, even while other series are still arriving."""


class RouteTrigger(StrEnum):
    """What a route is applied to."""

    ARRIVAL = "arrival"
    """Every study, and all measured values, that arrive."""
    ORDER = "order"
    """What an order names."""


class LateImages(StrEnum):
    """What images mean that come after a route was answered."""

    RERUN = "rerun"
    """Where they change the model's input it is asked again; the new result amends the old."""
    KEEP = "keep"
    """The first result stands, and the route's answer says so."""


class WhenIncomplete(StrEnum):
    """What a route does with a study that is known to lack images."""

    STATE = "state"
    """The model runs; every report says of how many images."""
    REFUSE = "refuse"
    """It does not match, and a person is told; it is asked again when images have come."""


@dataclass(frozen=True, slots=True)
class Route:
    """One rule: when a study matches, these series go to this model."""

    name: str
    when: Predicate
    """Over ``study``."""
    series: Predicate
    """Over ``study`` and ``series``; selects the input."""
    model: str
    """``id`` of a model package."""
    priority: Priority
    deliver_to: tuple[str, ...]
    mode: RouteMode = RouteMode.ACTIVE
    trigger: RouteTrigger = RouteTrigger.ARRIVAL
    start: RouteStart = RouteStart.STUDY
    late_images: LateImages = LateImages.RERUN
    incomplete: WhenIncomplete = WhenIncomplete.STATE
    critical: tuple[CriticalRule, ...] | None = None
    """Which findings are critical; None: as the model's manifest says."""
    alerts_per_hour: int = 10
    """Most alerts of critical findings in an hour; what goes beyond is one escalation."""


@dataclass(frozen=True, slots=True)
class Match:
    route: str
    series_instance_uids: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoMatch:
    route: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleError:
    """The rule itself is wrong: an alert, and a person mends it."""

    route: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The rule matches, but images are missing and the route refuses to go on without them."""

    route: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suspended:
    """The rule matches, but a person has suspended its model: one alert was raised by that. A
    person has the routes applied again once it is active."""

    route: str
    reasons: tuple[str, ...]


Decision = Match | NoMatch | Incomplete | Suspended | RuleError


def match(route: Route, study: Study, among: Collection[str] | None = None) -> Decision:
    """Apply one route to one study, or to those of its series that ``among`` names.

    A study that is held back by an identity problem matches nothing, and says so. Of a case, the
    model is given all of its values.
    """
    if study.problems:
        return NoMatch(route.name, study.problems)
    seen = study_variables(study)
    try:
        if not route.when({"study": seen}):
            return NoMatch(route.name, (f"not true: {route.when.text}",))
        chosen = tuple(
            series.series_instance_uid
            for series in study.series
            if (among is None or series.series_instance_uid in among)
            and route.series({"study": seen, "series": series_variables(series)})
        )
    except RuleFailedError as error:
        return RuleError(route.name, (str(error),))
    return _with_input(route, study, chosen)


def _with_input(route: Route, study: Study, chosen: tuple[str, ...]) -> Decision:
    """The study is what the route is for; ``chosen`` of its series are."""
    if study.is_case:
        given = f"values: {len(study.observations)} given"
        return Match(route.name, (), (f"study: {route.when.text}", given))
    if not chosen:
        return NoMatch(route.name, (f"no series is: {route.series.text}",))
    state = study.completeness
    if state.missing and route.incomplete is WhenIncomplete.REFUSE:
        reason = f"{state.received} of {state.expected} images have come; it waits for the others"
        return Incomplete(route.name, (reason,))
    return Match(
        route.name,
        chosen,
        (f"study: {route.when.text}", f"series: {route.series.text} ({len(chosen)} selected)"),
    )


def study_variables(study: Study) -> Variables:
    """What ``study.*`` means in an expression. No name, no birth date: rules don't need them."""
    return {
        "study_instance_uid": study.study_instance_uid,
        "revision": study.key.revision,
        "modalities_in_study": list(study.modalities_in_study),
        "study_description": study.study_description,
        "study_date": study.study_date,
        "accession_number": study.accession_number,
        "patient_sex": study.patient.patient_sex,
        "calling_ae_title": study.calling_ae_title,
        "source": study.source,
        "number_of_series": len(study.series),
        "number_of_instances": len(study.instances),
        "is_case": study.is_case,
        "observations": sorted(
            {
                code.code_value
                for value in study.observations
                for code in value.codes
                if code.coding_scheme_designator == LOINC
            }
        ),
    }


def series_variables(series: Series) -> Variables:
    """What ``series.*`` means in an expression: the first instance speaks for the series."""
    first = series.instances[0]
    return {
        "series_instance_uid": series.series_instance_uid,
        "modality": series.modality,
        "number_of_instances": len(series.instances),
        "sop_class_uid": first.sop_class_uid,
        "rows": first.rows or 0,
        "columns": first.columns or 0,
        "slice_thickness": first.slice_thickness or 0.0,
        "series_description": series.attribute("series_description"),
        "series_number": series.attribute("series_number"),
        "body_part_examined": series.attribute("body_part_examined"),
        "protocol_name": series.attribute("protocol_name"),
        "convolution_kernel": series.attribute("convolution_kernel"),
        "contrast_bolus_agent": series.attribute("contrast_bolus_agent"),
        "image_type": series.attribute("image_type").split("\\"),
        "manufacturer": series.attribute("manufacturer"),
        "manufacturer_model_name": series.attribute("manufacturer_model_name"),
        "view_position": series.attribute("view_position"),
        "laterality": series.attribute("laterality"),
        "image_laterality": series.attribute("image_laterality"),
        "number_of_frames": first.frames,
        "photometric_interpretation": series.attribute("photometric_interpretation"),
        "presentation_intent_type": series.attribute("presentation_intent_type"),
        "conversion_type": series.attribute("conversion_type"),
        "concept_name": series.attribute("concept_name"),
        "concept_name_code": series.attribute("concept_name_code"),
        "completion_flag": series.attribute("completion_flag"),
        "verification_flag": series.attribute("verification_flag"),
        "content_label": series.attribute("content_label"),
        "document_title": series.attribute("document_title"),
    }
