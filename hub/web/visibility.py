"""What a vendor sees of requests and results: those of its own models. All others see all."""

from __future__ import annotations

from collections.abc import Collection

from hub.domain.access import Principal, Scope
from hub.store import registrations
from hub.web.context import WebContext


def visible_models(context: WebContext, principal: Principal) -> Collection[str] | None:
    """SHA-256 of the packages that they may know of, registered ones included; None: all.

    The digest and not the id: of one id, an earlier version may have been another vendor's.

    Raises:
        TransientError: the database is away.
    """
    if principal.scope is not Scope.VENDOR:
        return None
    vendor = principal.vendor
    own = {package.key.sha256 for package in context.models if package.card.vendor.name == vendor}
    with context.database.read() as connection:
        registered = registrations.all_of(connection)
    return own | {one.model.sha256 for one in registered if one.vendor == vendor}
