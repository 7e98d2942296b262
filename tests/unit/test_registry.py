from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from hub import registry
from hub.errors import RejectedError
from hub.registry import CONNECTORS, Registry, discover


def test_the_built_in_parts_arrive_through_their_entry_points() -> None:
    found = discover()
    assert set(found.connectors) == {"dicom", "dicomweb", "fhir", "folder", "hl7v2", "webhook"}
    assert set(found.adapters) == {"onnx_local", "open_inference", "vendor_http"}
    assert set(found.models) == {"lung-density", "ecg-intervals", "liver-kidney-scores"}
    assert found.unavailable == ()


def test_a_part_that_cannot_be_loaded_is_kept_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = [
        EntryPoint("gone", "no_such_module:PART", CONNECTORS),
        EntryPoint("odd", "hub.errors:ConfigError", CONNECTORS),
        EntryPoint("folder", "connectors.folder:CONNECTOR", CONNECTORS),
    ]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [p for p in points if p.group == group]
    )
    found = discover()
    assert set(found.connectors) == {"folder"}
    reasons = {part.kind: part.reason for part in found.unavailable}
    assert "no_such_module" in reasons["gone"]
    assert reasons["odd"] == "is no Connector"


def test_what_is_not_there_is_refused_with_the_reason() -> None:
    empty = Registry(broken_models={"ecg": "openecg is not installed"})
    with pytest.raises(RejectedError, match="openecg is not installed"):
        empty.model("ecg")
    with pytest.raises(RejectedError, match="neither configured nor registered"):
        empty.model("other")
    with pytest.raises(RejectedError, match="pacs is not configured"):
        empty.destination("pacs")
