"""The register of models: what runs here, what it is for, who answers for it."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel

from hub.domain.model_card import ModelCard
from hub.ports import ModelPackage
from hub.web.context import Context

router = APIRouter(prefix="/models", tags=["models"])


class ModelSummary(BaseModel):
    """One registered model."""

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


class ModelDetail(BaseModel):
    """One registered model with its whole card."""

    sha256: str
    card: ModelCard


@router.get("")
def models(context: Context) -> list[ModelSummary]:
    """Every configured model."""
    return [_summary(package) for package in context.models]


@router.get("/{model_id}", responses={404: {"description": "Not configured"}})
def model(model_id: str, context: Context) -> ModelDetail:
    """One model."""
    for package in context.models:
        if package.key.model_id == model_id:
            return ModelDetail(sha256=package.key.sha256, card=package.card)
    raise HTTPException(HTTPStatus.NOT_FOUND, "no model with this id is configured")


def _summary(package: ModelPackage) -> ModelSummary:
    card = package.card
    return ModelSummary(
        id=card.id,
        name=card.name,
        version=card.version,
        vendor=card.vendor.name,
        description=card.description,
        purpose=card.intended_use.purpose,
        modalities=card.intended_use.modalities,
        medical_device=card.regulation.medical_device,
        sha256=package.key.sha256,
    )
