"""Vendors that behave in one way each, in the test's own process, and the models that they run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from hub.simulator.answers import MADE_UP, MADE_UP_TRACKING_IDENTIFIER, MadeUpAnswers
from hub.simulator.behaviours import Behaviour, usual_answering
from hub.simulator.server import VendorServer
from hub.simulator.vendor import Vendor, VendorOptions
from hub.transport.webhook_signature import key_of
from model_adapters.reference_models import LUNG_DENSITY
from tests.peers.vendor import SECRET

LOOPBACK = {"outbound": {"private_networks": ["127.0.0.1/32"]}}


@dataclass
class Misbehaving:
    """A vendor, and its model."""

    model_id: str
    url: str
    vendor: Vendor
    runtime: dict[str, Any]

    @property
    def statistics(self) -> dict[str, Any]:
        return self.vendor.statistics()

    def package(self, folder: Path) -> Path:
        """The folder of its ``model.yaml``."""
        return vendor_model(folder / self.model_id, self.model_id, self.url, **self.runtime)


@contextmanager
def vendor(name: str, behaviour: str = "", **options: Any) -> Iterator[Misbehaving]:
    """One that listens.

    Args:
        name: of its model, and its behaviour.
        behaviour: where it is another one.
        options: of `VendorOptions`; ``runtime`` of the manifest.
    """
    chosen = Behaviour(behaviour or name)
    answering = options.pop("answering", usual_answering(chosen))
    runtime = {"answer": answering, **options.pop("runtime", {})}
    given = {"delay_seconds": 0.5, "webhook_key": key_of(SECRET), **options}
    with httpx.Client(timeout=20) as client:
        who = Vendor(
            VendorOptions(behaviour=chosen, answering=answering, **given), MadeUpAnswers(), client
        )
        server = VendorServer(("127.0.0.1", 0), who)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield Misbehaving(f"v-{name}", server.url, who, runtime)
        finally:
            who.close()
            server.shutdown()
            server.server_close()
            thread.join()


def vendor_model(folder: Path, model_id: str, url: str, **runtime: Any) -> Path:
    """A model of the simulator's made-up finding."""
    code = {
        "code_value": MADE_UP.code_value,
        "coding_scheme_designator": MADE_UP.coding_scheme_designator,
        "code_meaning": MADE_UP.code_meaning,
    }
    study = {
        "code_value": "18748-4",
        "coding_scheme_designator": "LN",
        "code_meaning": "Diagnostic imaging study",
    }
    manifest = {
        "id": model_id,
        "name": f"Effusion by {model_id}",
        "version": "1.0.0",
        "vendor": {"name": f"Vendor of {model_id}"},
        "description": "Asks a simulated vendor.",
        "licence": "Apache-2.0",
        "intended_use": {
            "purpose": "test",
            "modalities": ["CT"],
            "sop_classes": ["1.2.840.10008.5.1.4.1.1.2"],
        },
        "regulation": {"medical_device": False},
        "procedure": {"title": "Effusion", "report_code": study, "procedure_reported": study},
        "input": {"kind": "volume"},
        "runtime": {
            "kind": "vendor_http",
            "url": url,
            "timeout_seconds": 2.0,
            "poll_seconds": 0.2,
            "answer_within_seconds": 60.0,
            **runtime,
        },
        "output": {
            "findings": [
                {
                    "kind": "presence",
                    "output": "effusion",
                    "code": code,
                    "threshold": 0.5,
                    "tracking_identifier": MADE_UP_TRACKING_IDENTIFIER,
                }
            ]
        },
    }
    folder.mkdir(parents=True)
    with (folder / "model.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(manifest, file)
    return folder


def sections(folder: Path, vendors: Sequence[Misbehaving]) -> dict[str, Any]:
    """The configuration of a hub that asks each of them, and a model of its own, about every
    CT."""
    names = [one.model_id for one in vendors]
    services = [{"url": one.url, "webhook_secrets": [SECRET]} for one in vendors]
    results = {"name": "results", "kind": "folder", "folder": str(folder / "results")}
    return {
        **LOOPBACK,
        "models": [
            {"package": "builtin:lung-density"},
            *({"package": str(one.package(folder))} for one in vendors),
        ],
        "routes": [
            {"name": name, "when": "'CT' in study.modalities_in_study", "model": name}
            for name in ("lung-density", *names)
        ],
        "adapters": {"vendor_http": {"services": services}, "onnx_local": {"processes": 1}},
        "destinations": [{**results, "documents": ["fhir"]}],
    }


def lung_density_at(folder: Path, url: str, model_id: str, **runtime: Any) -> Path:
    """The reference model's manifest for a vendor that runs it; its findings are the same."""
    yaml = YAML()
    manifest = yaml.load((LUNG_DENSITY / "model.yaml").read_text("utf-8"))
    manifest["id"] = model_id
    manifest["runtime"] = {"kind": "vendor_http", "url": url, **runtime}
    del manifest["preprocessing"], manifest["output"]["not_assessable"]
    folder.mkdir(parents=True)
    with (folder / "model.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(manifest, file)
    return folder
