"""The model card: everything a hospital must know of a model, from one ``model.yaml``.

The AI register, the input gate, the encoders and the conformance kit all work from it.
Only ``kind`` tells steps and inputs apart; every field is documented by the text below it,
which is also the description in the published JSON Schema (``caidx model schema``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hub.domain.coding import Code
from hub.domain.model_input import InputSpec
from hub.domain.model_output import OutputSpec
from hub.domain.model_runtime import Artefact, Runtime
from hub.domain.model_steps import STRICT, PreprocessingStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """Who makes the model and answers for it."""

    name: str
    address: str = ""
    contact: str = ""

    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class IntendedUse:
    """What the model is for; the input gate enforces it."""

    purpose: str
    """The intended purpose, verbatim from the instructions for use."""
    not_for: tuple[str, ...] = ()
    """What it must not be used for."""
    user: str = ""
    environment: str = ""
    modalities: tuple[str, ...] = ()
    """Allowed values of Modality (0008,0060); models that read images name at least one."""
    sop_classes: tuple[str, ...] = ()
    """Allowed SOP Class UIDs; models that read images name at least one."""
    body_parts: tuple[str, ...] = ()
    """Allowed values of BodyPartExamined (0018,0015); empty: any, absent values included."""
    excluded_body_parts: tuple[str, ...] = ()
    """Values of BodyPartExamined that are refused."""
    contrast: Literal["any", "required", "forbidden"] = "any"
    minimum_age_years: float | None = None
    maximum_age_years: float | None = None
    sexes: tuple[str, ...] = ()
    """Allowed values of PatientSex; empty: any."""
    minimum_instances: int = 1
    """Fewest instances in the chosen series."""
    maximum_slice_thickness_mm: float | None = None
    maximum_slice_spacing_mm: float | None = None

    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Regulation:
    """The regulatory facts (MDR, AI Act)."""

    medical_device: bool
    mdr_class: str = ""
    mdr_rule: str = ""
    certificate_number: str = ""
    certificate_expires: str = ""
    """ISO date."""
    notified_body: str = ""
    udi_di: str = ""
    ai_act_route: str = ""
    ai_act_reason: str = ""
    countries: tuple[str, ...] = ()

    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure:
    """What the result is called in reports."""

    title: str
    """Series description and report title, after the ``AI`` mark."""
    report_code: Code
    """LOINC code of the DiagnosticReport, e.g. 18748-4."""
    procedure_reported: Code
    """(121058, DCM, "Procedure reported") of the SR: the imaging procedure analysed."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A performance claim of the vendor."""

    metric: str
    value: str
    population: str
    source: str = ""
    __pydantic_config__ = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model, whole."""

    id: str
    """Lower-case letters, digits and hyphens; unique in the hub."""
    name: str
    version: str
    vendor: Vendor
    description: str
    licence: str
    intended_use: IntendedUse
    regulation: Regulation
    procedure: Procedure
    input: InputSpec
    preprocessing: tuple[PreprocessingStep, ...] = ()
    runtime: Runtime
    output: OutputSpec
    claims: tuple[Claim, ...] = ()

    @property
    def artefacts(self) -> tuple[Artefact, ...]:
        """Every file that belongs to the model, the graph first."""
        return self.runtime.artefacts

    __pydantic_config__ = STRICT
