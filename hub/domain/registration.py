"""The life of a registered model."""

from __future__ import annotations

from enum import StrEnum


class RegistrationState(StrEnum):
    """registered -> active -> suspended -> active ... -> retired."""

    REGISTERED = "registered"
    """Checked and kept; nothing is asked of it, or nothing new: another version took its place."""
    ACTIVE = "active"
    """Routes may use it; of each model id at most one version is."""
    SUSPENDED = "suspended"
    """Nothing is asked of it until a person activates it again."""
    RETIRED = "retired"
    """For good."""


NEXT_STATES = {
    RegistrationState.REGISTERED: {RegistrationState.ACTIVE, RegistrationState.RETIRED},
    RegistrationState.ACTIVE: {
        RegistrationState.REGISTERED,  # another version was activated
        RegistrationState.SUSPENDED,
        RegistrationState.RETIRED,
    },
    RegistrationState.SUSPENDED: {RegistrationState.ACTIVE, RegistrationState.RETIRED},
    RegistrationState.RETIRED: frozenset(),
}
"""What may follow."""
