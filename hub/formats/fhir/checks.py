"""The last look at a FHIR transaction before it leaves: pure rules, each of which names what it
forbids.

fhir.resources checks the shape of every resource. It does not see what makes a report wrong
although each resource is right: a reference that leads nowhere, a value in a report that was
cancelled, two patients in one Bundle, a critical finding that nobody is told of. A Bundle that
breaks a rule is never sent.

This module has the rules that hold for any transaction, `hub.formats.fhir.report_rules` those of
a report.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from fhir.resources.R4B.bundle import Bundle
from pydantic import BaseModel, ValidationError

from hub.domain.coding import CODING_SYSTEMS, Code
from hub.errors import IntegrityError
from hub.formats.codes import code_problem
from hub.formats.fhir import report_rules as fhir_report_rules
from hub.formats.fhir.bundle_view import BundleView, Json, objects_in
from hub.formats.fhir.resources import DICOM_UID, UCUM, conditional
from hub.formats.ucum import is_unit

Rule = Callable[[BundleView], Iterator[str]]

_OID = re.compile(r"urn:oid:(?=.{1,64}\Z)(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_ELSEWHERE = re.compile(r"(https?://[^\s]+/)?[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}(/_history/\S+)?")
_DESIGNATORS = {system: designator for designator, system in CODING_SYSTEMS.items()}
_LEADS_TO = {
    "result": {"Observation"},
    "hasMember": {"Observation"},
    "imagingStudy": {"ImagingStudy"},
    "device": {"Device"},
    "derivedFrom": {"ImagingStudy", "Observation"},
    "focus": {"ImagingStudy"},
    "owner": {"Device"},
    "about": {"DiagnosticReport"},
}


def check_bundle(bundle: Json) -> None:
    """Validate an R4 transaction before it leaves: shape, then rules.

    Raises:
        IntegrityError: names places and rules, never values.
    """
    check_shape(bundle)
    check_rules(bundle)


def check_shape(bundle: Json, root: type[BaseModel] = Bundle, version: str = "R4") -> None:
    """Is every resource one of this version of FHIR, by fhir.resources?

    Raises:
        IntegrityError: names the places, never values.
    """
    try:
        root.model_validate(bundle)
    except ValidationError as error:
        places = {".".join(str(part) for part in e["loc"]) + f" ({e['type']})" for e in _of(error)}
        raise IntegrityError(f"not valid FHIR {version}: {', '.join(sorted(places))}") from None


def check_rules(bundle: Json) -> None:
    """Do the resources fit together?

    Raises:
        IntegrityError: every rule that is broken, never values.
    """
    view = BundleView(bundle)
    problems = dict.fromkeys(problem for rule in RULES for problem in rule(view))
    if problems:
        raise IntegrityError(f"a FHIR transaction that must not be sent: {'; '.join(problems)}")


def _of(error: ValidationError) -> list[Any]:
    # without input and context: both hold the patient's data
    return list(error.errors(include_url=False, include_context=False, include_input=False))


# --- rules of any transaction ------------------------------------------------------------


def entries_can_be_sent_again(view: BundleView) -> Iterator[str]:
    """Each entry meets the resource that it made before: by its own identifier, or its own id."""
    for entry in view.entries:
        resource, request = entry["resource"], entry["request"]
        resource_type = resource["resourceType"]
        identifiers = resource.get("identifier", [])
        own = [conditional(one) for one in identifiers if {"system", "value"} <= set(one)]
        if request["method"] == "POST":
            met = request["url"] == resource_type and request.get("ifNoneExist") in own
        else:
            searches = {f"{resource_type}?{condition}" for condition in own}
            met = request["url"] in {*searches, f"{resource_type}/{resource.get('id')}"}
        if not met:
            yield f"{resource_type} would be made again by every sending"


def identities_are_single(view: BundleView) -> Iterator[str]:
    """No two entries claim the same identity."""
    urls = Counter(entry["fullUrl"] for entry in view.entries)
    targets = Counter(tuple(entry["request"].items()) for entry in view.entries)
    identifiers = Counter(
        (resource["resourceType"], one.get("system"), one.get("value"))
        for resource in view.resources
        for one in resource.get("identifier", [])
    )
    if max((*urls.values(), *targets.values(), *identifiers.values()), default=1) > 1:
        yield "two entries of a FHIR transaction claim the same identity"


def references_lead_somewhere(view: BundleView) -> Iterator[str]:
    """To an entry of the same Bundle, or to a contained resource; what a report was made from and
    who asked for it may stand at the receiver, or anywhere."""
    for resource in view.resources:
        outside = set(_outside(resource))
        for one in objects_in(resource):
            reference = one.get("reference")
            if not isinstance(reference, str) or reference in view.by_url:
                continue
            if reference in outside and _ELSEWHERE.fullmatch(reference):
                continue
            if reference not in _inside(resource):
                yield "a reference in a FHIR transaction leads to no entry"


def _outside(resource: Json) -> Iterator[str]:
    """What may stand elsewhere: the order, and measured values."""
    asked = [*resource.get("basedOn", []), *resource.get("derivedFrom", [])]
    asked += [one.get("valueReference", {}) for one in resource.get("input", [])]
    asked += [one["what"] for one in resource.get("entity", []) if one["role"] == "source"]
    yield from (str(one.get("reference", "")) for one in asked)


def _inside(resource: Json) -> set[str]:
    """References to what a resource contains."""
    return {f"#{contained.get('id')}" for contained in resource.get("contained", [])}


def references_lead_to_the_right_type(view: BundleView) -> Iterator[str]:
    """What no validator of a single resource can see: to what a ``urn:uuid`` leads."""
    for resource in view.resources:
        for name, allowed in _LEADS_TO.items():
            found = resource.get(name, [])
            for reference in found if isinstance(found, list) else [found]:
                target = view.by_url.get(reference.get("reference", ""))
                if target is not None and target["resourceType"] not in allowed:
                    yield f"{resource['resourceType']}.{name} leads to a {target['resourceType']}"


def logical_references_name_somebody(view: BundleView) -> Iterator[str]:
    """A reference by type alone refers to nothing."""
    for resource, one in view.objects:
        if not set(one).issuperset({"type"}) or not isinstance(one["type"], str):
            continue
        if one["type"][:1].isupper() and not set(one) & _NAMES:
            yield f"{resource['resourceType']} refers to a {one['type']} without naming it"


_NAMES = {"reference", "identifier", "display", "extension"}


def contained_are_used(view: BundleView) -> Iterator[str]:
    """R4 dom-3: a contained resource is referred to by the one around it."""
    for resource in view.resources:
        inside = _inside(resource)
        if inside and not inside <= {one.get("reference") for one in objects_in(resource)}:
            yield f"{resource['resourceType']} contains what it does not refer to"


def one_patient(view: BundleView) -> Iterator[str]:
    """Everything in a transaction is about the same patient."""
    subjects = [one[name] for one in view.resources for name in ("subject", "for") if name in one]
    if any(subject != subjects[0] for subject in subjects):
        yield "two patients in one FHIR transaction"


def one_study(view: BundleView) -> Iterator[str]:
    """The series that a report was made from belong to the ImagingStudy that it names, which has
    one Study Instance UID; and every UID is one (PS3.5 section 9.1)."""
    for _, one in view.objects:
        if one.get("system") == DICOM_UID and not _OID.fullmatch(str(one.get("value", ""))):
            yield "an identifier that is no DICOM UID"
    studies = view.of_type("ImagingStudy")
    uids = [[i for i in study["identifier"] if i.get("system") == DICOM_UID] for study in studies]
    if any(len(of_study) != 1 for of_study in uids):
        yield "an ImagingStudy without exactly one Study Instance UID"
    series = {f"urn:oid:{one['uid']}" for study in studies for one in study.get("series", [])}
    for provenance in view.of_type("Provenance"):
        for entity in provenance.get("entity", []):
            identifier = entity["what"].get("identifier", {})
            is_series = entity["role"] == "source" and identifier.get("system") == DICOM_UID
            if is_series and identifier.get("value") not in series:
                yield "a source that is not in the study"


def codes_and_units_exist(view: BundleView) -> Iterator[str]:
    """Units are UCUM, and codes of known systems are codes that these can have."""
    for resource, one in view.objects:
        system, code = one.get("system"), one.get("code")
        if "value" in one and isinstance(one["value"], int | float):
            if not math.isfinite(one["value"]):
                yield f"{resource['resourceType']} has a value that is not a finite number"
            if system != UCUM or not isinstance(code, str) or not is_unit(code):
                yield f"{resource['resourceType']} has a quantity whose unit is not UCUM"
        elif isinstance(code, str) and system in _DESIGNATORS and system != UCUM:
            named = Code(code, _DESIGNATORS[system], one.get("display") or code)
            if problem := code_problem(named):
                yield f"{resource['resourceType']} has {problem}"


RULES: tuple[Rule, ...] = (
    entries_can_be_sent_again,
    identities_are_single,
    references_lead_somewhere,
    references_lead_to_the_right_type,
    logical_references_name_somebody,
    contained_are_used,
    one_patient,
    one_study,
    codes_and_units_exist,
    *fhir_report_rules.RULES,
)
