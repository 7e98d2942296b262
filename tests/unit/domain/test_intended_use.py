from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from hub.domain.identity import PatientIdentity
from hub.domain.intended_use import unsuitable_reasons
from hub.domain.model_card import IntendedUse, ModelCard
from hub.domain.model_input import WaveformInput
from hub.domain.study import Completeness, Instance, Location, Series, Study, StudyKey
from hub.formats.manifest.model_manifest import read_manifest
from tests.unit.adapters.toy_models import MANIFEST

CT = "1.2.840.10008.5.1.4.1.1.2"


def card(**use: Any) -> ModelCard:
    read = read_manifest(MANIFEST.replace("%SHA%", "0" * 64).replace("%TIMEOUT%", "1"), "m")
    values = {"purpose": "test", "modalities": ("CT",), "sop_classes": (CT,)} | use
    return replace(read, intended_use=IntendedUse(**values))


def series(count: int = 3, *, modality: str = "CT", spacing: float = 2.0, **changes: Any) -> Series:
    def instance(number: int) -> Instance:
        made = Instance(
            sop_instance_uid=f"1.{number}",
            sop_class_uid=CT,
            series_instance_uid="1.2",
            study_instance_uid="1.3",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            patient=PatientIdentity("secret-id"),
            sha256="",
            location=Location("s", 0, 1),
            image_position_patient=(0.0, 0.0, spacing * number),
            image_orientation_patient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            slice_thickness=2.0,
        )
        return replace(made, **changes)

    return Series("1.2", modality, tuple(instance(number) for number in range(count)))


def said(
    model: ModelCard, *chosen: Series, study_date: str = "20260301", **patient: str
) -> tuple[str, ...]:
    study = Study(
        key=StudyKey("1.3", 1),
        patient=PatientIdentity("secret-id", patient_name="Secret^Name", **patient),
        accession_number="",
        issuer_of_accession_number="",
        study_date=study_date,
        study_time="",
        study_description="",
        study_id="",
        referring_physician_name="",
        series=chosen,
        completeness=Completeness(complete=True, evidence=None, received=1, expected=None),
        received_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    reasons = unsuitable_reasons(model, study, chosen)
    assert "secret" not in " ".join(reasons).lower()
    return reasons


def with_attributes(**attributes: str) -> Series:
    return series(attributes=attributes)


def test_what_fits_has_no_reasons() -> None:
    assert said(card(), series()) == ()


@pytest.mark.parametrize(
    ("use", "chosen", "part"),
    [
        ({}, series(modality="MR"), "The modality is MR; the model is for CT."),
        ({}, series(sop_class_uid="1.9"), "SOP class 1.9"),
        ({"body_parts": ("CHEST",)}, with_attributes(body_part_examined="HEAD"), "part is HEAD"),
        ({"body_parts": ("CHEST",)}, series(), "The body part is not given"),
        ({"excluded_body_parts": ("HEAD",)}, with_attributes(body_part_examined="Head"), "HEAD"),
        ({"contrast": "required"}, series(), "without contrast agent"),
        ({"contrast": "forbidden"}, with_attributes(contrast_bolus_agent="X"), "with contrast"),
        ({"minimum_instances": 4}, series(), "has 3 images; the model needs at least 4."),
        ({"maximum_slice_thickness_mm": 1.5}, series(), "2 mm thick"),
        ({"maximum_slice_thickness_mm": 1.5}, series(slice_thickness=None), "not given"),
        ({"maximum_slice_spacing_mm": 1.5}, series(), "2.0 mm apart"),
        ({"maximum_slice_spacing_mm": 1.5}, series(image_position_patient=None), "not known"),
    ],
)
def test_what_does_not_fit_is_told(use: dict[str, Any], chosen: Series, part: str) -> None:
    (reason,) = said(card(**use), chosen)
    assert part in reason


@pytest.mark.parametrize(
    ("use", "chosen"),
    [
        ({"body_parts": ("CHEST",)}, with_attributes(body_part_examined="chest")),
        ({"excluded_body_parts": ("HEAD",)}, series()),
        ({"contrast": "forbidden"}, with_attributes(contrast_bolus_agent=" ")),
        ({"maximum_slice_spacing_mm": 2.0}, series(spacing=-2.0)),
        ({"maximum_slice_thickness_mm": 2.0}, series()),
    ],
)
def test_limits_include_themselves(use: dict[str, Any], chosen: Series) -> None:
    assert said(card(**use), chosen) == ()


@pytest.mark.parametrize(
    ("born", "reason"),
    [
        ("20080301", ""),  # 18 on the day
        ("20080302", "younger than 18"),
        ("19550302", ""),  # 70, the day before turning 71
        ("19550301", "older than 70"),
        ("", "age is not known"),
        ("not a date", "age is not known"),
    ],
)
def test_age_counts_in_completed_years(born: str, reason: str) -> None:
    model = card(minimum_age_years=18, maximum_age_years=70)
    assert reason in " ".join(said(model, series(), patient_birth_date=born))
    assert bool(reason) == bool(said(model, series(), patient_birth_date=born))


@pytest.mark.parametrize(("age", "fits"), [("018Y", True), ("017Y", False), ("011M", False)])
def test_the_stated_age_counts_where_no_birth_date_is_known(age: str, *, fits: bool) -> None:
    assert (said(card(minimum_age_years=18), with_attributes(patient_age=age)) == ()) is fits


def test_sex_and_number_of_series_are_checked() -> None:
    model = card(sexes=("F",))
    assert said(model, series(), patient_sex="F") == ()
    assert "sex is M" in said(model, series(), patient_sex="M")[0]
    assert "sex is not given" in said(model, series())[0]
    assert said(card(), series(), series()) == ("The model reads one series; 2 were chosen.",)
    assert said(card(), series(0)) == ("The chosen series is empty.",)


def test_a_model_of_single_objects_refuses_several() -> None:
    ecg = replace(card(), input=WaveformInput(kind="waveform"))
    assert "3 objects; the model reads a single one" in said(ecg, series())[0]
    assert said(ecg, series(1)) == ()
