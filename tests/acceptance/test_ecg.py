"""The machine that recorded an ECG has measured it too: the hub's RR interval agrees with it."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.acceptance.studies import ecg
from tests.peers.fhir_server import FhirServer
from tests.running_hub import StartHub

pytestmark = pytest.mark.peers

RR_BY_THE_MACHINE = ("5.10.2.1-3", "SCPECG")
RR_INTERVAL = "8637-1"


def test_the_rr_interval_of_a_real_ecg_equals_the_machines_within_one_percent(
    start_hub: StartHub, fhir_server: FhirServer
) -> None:
    study = ecg()
    truth = rr_by_the_machine(study.files[0])
    assert truth == 982.0
    hub = start_hub(fhir_server=fhir_server)
    hub.send(study.files)
    timeline = hub.wait_for_study(study.study_instance_uid)

    assert {result.outcome for result in timeline.results} == {"assessed"}
    assert [delivery.state for delivery in timeline.deliveries] == ["delivered"]
    observations = fhir_server.search("Observation", code=f"http://loinc.org|{RR_INTERVAL}")
    (value,) = [one["valueQuantity"] for one in observations]
    assert value["code"] == "ms"
    assert value["value"] == pytest.approx(truth, rel=0.01)


def rr_by_the_machine(file: Path) -> float:
    """RR in ms from the annotations that the electrocardiograph wrote (PS3.3 C.10.10)."""
    annotations: list[Dataset] = list(pydicom.dcmread(file).WaveformAnnotationSequence)
    (found,) = [one for one in annotations if _concept(one) == RR_BY_THE_MACHINE]
    assert found.MeasurementUnitsCodeSequence[0].CodeValue == "ms"
    return float(found.NumericValue)


def _concept(annotation: Dataset) -> tuple[str, str]:
    names = annotation.get("ConceptNameCodeSequence")
    return (names[0].CodeValue, names[0].CodingSchemeDesignator) if names else ("", "")
