"""Findings that a person has to know at once, and how many of them are believable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hub.domain.finding import Finding, Presence
from hub.domain.model_steps import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalRule:
    """When a finding is critical. The thresholds that are given must all be met; without any, the
    finding's presence is enough."""

    finding: str
    """``tracking_identifier`` of the finding; of detections without their numbers."""
    minimum_probability: float | None = None
    above: float | None = None
    """Measured values above it, in the finding's own unit."""
    below: float | None = None
    """Measured values below it."""

    __pydantic_config__ = STRICT

    def applies(self, finding: Finding) -> bool:
        """Whether this finding is critical. What could not be assessed never is."""
        name, _, number = finding.tracking_identifier.rpartition(" ")
        if self.finding not in (finding.tracking_identifier, name if number.isdigit() else None):
            return False
        if finding.presence is not None and finding.presence is not Presence.PRESENT:
            return False
        limits = (self.above is not None, self.below is not None)
        if finding.value is None and any(limits):
            return False
        if self.minimum_probability is not None and (
            finding.probability is None or finding.probability < self.minimum_probability
        ):
            return False
        if finding.value is None:
            return True
        over = self.above is not None and finding.value > self.above
        under = self.below is not None and finding.value < self.below
        return over or under or not any(limits)


def marked(findings: Sequence[Finding], rules: Sequence[CriticalRule]) -> tuple[Finding, ...]:
    """The findings, those that are critical marked so."""
    return tuple(
        replace(finding, critical=any(rule.applies(finding) for rule in rules))
        for finding in findings
    )
