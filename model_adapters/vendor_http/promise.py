"""Whether a vendor's answer is what its model card promises.

A result that was not declared was not validated either, nor looked at by whoever activated the
model: it is refused. Units, locations and references are looked at later, for every model alike
(`hub.formats.invariants`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hub.domain.coding import Code
from hub.domain.finding import Finding, Region
from hub.domain.inference import InferenceResult
from hub.domain.model_output import (
    ClassFinding,
    DetectionsFinding,
    FindingSpec,
    OutputSpec,
    PresenceFinding,
    ScalarFinding,
)
from hub.errors import RejectedError

_MOST_PROBLEMS = 5


def check_promise(result: InferenceResult, output: OutputSpec) -> None:
    """Is everything in the answer declared?

    Raises:
        RejectedError: names what is not, by its path in the answer, and repeats nothing of it.
    """
    problems = [
        *_undeclared_findings(result.findings, output),
        *_undeclared_segments(result.region, output),
    ]
    if problems:
        told = "; ".join(problems[:_MOST_PROBLEMS])
        raise RejectedError(f"the answer is not what the model's card declares: {told}")


def _undeclared_findings(findings: tuple[Finding, ...], output: OutputSpec) -> Iterator[str]:
    for index, finding in enumerate(findings):
        same_subject = [s for s in output.findings if _is_subject(s, finding)]
        if not same_subject:
            yield f"findings.{index}.tracking_identifier: output.findings has none like it"
        elif not any(_is_declared(spec, finding) for spec in same_subject):
            yield f"findings.{index}: its code and kind of answer are not those of output.findings"


def _is_subject(spec: FindingSpec, finding: Finding) -> bool:
    """Detections are numbered after what they are called; one that says that there is none is
    not."""
    declared, given = spec.tracking_identifier, finding.tracking_identifier
    if isinstance(spec, DetectionsFinding):
        return re.fullmatch(rf"{re.escape(declared)}( [1-9][0-9]*)?", given) is not None
    return given == declared


def _is_declared(spec: FindingSpec, finding: Finding) -> bool:
    if isinstance(spec, ScalarFinding):
        return finding.value is not None and _same(finding.code, spec.code)
    if isinstance(spec, PresenceFinding):
        return finding.presence is not None and _same(finding.code, spec.code)
    if isinstance(spec, ClassFinding):
        is_class = finding.coded_value is not None and _one_of(finding.coded_value, spec.classes)
        return is_class and _same(finding.code, spec.code)
    if finding.value is not None:
        return _one_of(finding.code, tuple(m.code for m in spec.measurements))
    return finding.presence is not None and _one_of(finding.code, (spec.code, *spec.class_codes))


def _undeclared_segments(region: Region | None, output: OutputSpec) -> Iterator[str]:
    if region is None:
        return
    declared = {} if output.region is None else {s.number: s for s in output.region.segments}
    for index, segment in enumerate(region.segments):
        spec = declared.get(segment.number)
        if spec is None or not _same(segment.property_type, spec.property_type):
            yield f"label_map.segments.{index}: output.region declares no such segment"


def _one_of(code: Code, declared: tuple[Code, ...]) -> bool:
    return any(_same(code, one) for one in declared)


def _same(one: Code, other: Code) -> bool:
    """The meaning is for people."""
    return (one.code_value, one.coding_scheme_designator) == (
        other.code_value,
        other.coding_scheme_designator,
    )
