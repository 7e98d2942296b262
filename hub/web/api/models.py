"""The register of models: what runs here, what it is for, who answers for it, who stopped it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict

from hub.bootstrap.model_register import ListedModel
from hub.domain.access import Principal, Scope
from hub.domain.model_card import ModelCard
from hub.domain.registration import RegistrationState
from hub.ports import ModelPackage
from hub.store.registrations import CONFIGURED
from hub.web.context import Context, WebContext
from hub.web.door import CurrentPrincipal

router = APIRouter(prefix="/models", tags=["models"])


class ModelSummary(BaseModel):
    """One version of one model."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    name: str
    version: str
    vendor: str
    description: str
    purpose: str
    modalities: tuple[str, ...]
    medical_device: bool
    sha256: str
    """Digest of the whole package."""
    state: str
    """registered: it is checked and kept; active: routes may use it; suspended: nothing is asked
    of it; retired: for good."""
    since: datetime | None
    """Of the state; null: since it stands in the configuration."""
    who: str
    """Who brought it into that state; empty for vendors."""
    why: str
    origin: str
    """configuration or registered."""
    problem: str
    """Why it cannot run, as far as its package and the configuration tell."""


class ModelDetail(ModelSummary):
    """One model with its whole card."""

    card: ModelCard | None
    """Null where the package cannot be read."""


@router.get("")
def models(context: Context, principal: CurrentPrincipal) -> list[ModelSummary]:
    """Every version of every configured or registered model; to a vendor its own."""
    return [ModelSummary(**_fields(one, principal)) for one in visible(context, principal)]


@router.get("/{model_id}", responses={404: {"description": "No such model"}})
def model(
    model_id: str,
    context: Context,
    principal: CurrentPrincipal,
    version: Annotated[str, Query(description="Else the one that is used.")] = "",
) -> ModelDetail:
    """One model; a vendor is not told of those of others."""
    found = [
        one
        for one in visible(context, principal)
        if one.id == model_id and version in ("", one.version)
    ]
    if not found:
        raise HTTPException(HTTPStatus.NOT_FOUND, "no model with this id is known")
    used = next((one for one in found if one.is_current), found[0])
    return ModelDetail(**_fields(used, principal), card=used.card)


def visible(context: WebContext, principal: Principal) -> Sequence[ListedModel]:
    """The models that somebody may know of.

    Raises:
        TransientError: the database is away.
    """
    if context.desk is None:
        found: Sequence[ListedModel] = [_configured(package) for package in context.models]
    else:
        found = context.desk.register.models()
    if principal.scope is not Scope.VENDOR:
        return found
    return [one for one in found if one.vendor == principal.vendor]


def _configured(package: ModelPackage) -> ListedModel:
    return ListedModel(
        id=package.key.model_id,
        version=package.key.version,
        vendor=package.card.vendor.name,
        state=RegistrationState.ACTIVE,
        origin=CONFIGURED,
        sha256=package.key.sha256,
        since=None,
        who=CONFIGURED,
        why="",
        card=package.card,
    )


def _fields(model: ListedModel, principal: Principal) -> dict[str, Any]:
    card = model.card
    return {
        "id": model.id,
        "name": "" if card is None else card.name,
        "version": model.version,
        "vendor": model.vendor,
        "description": "" if card is None else card.description,
        "purpose": "" if card is None else card.intended_use.purpose,
        "modalities": () if card is None else card.intended_use.modalities,
        "medical_device": card is not None and card.regulation.medical_device,
        "sha256": model.sha256,
        "state": model.state.value,
        "since": model.since,
        "who": "" if principal.scope is Scope.VENDOR else model.who,
        "why": model.why,
        "origin": model.origin,
        "problem": model.problem,
    }
