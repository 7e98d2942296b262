"""Measured values on an inference server: the same scores as here, and nothing is sent that the
model must not get."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hub.domain.inference import InferenceResult, Outcome, Unsuitable
from hub.domain.model_input import ObservationsInput
from hub.domain.model_runtime import OnnxRuntime, OpenInferenceRuntime
from hub.domain.observed_input import chosen_input
from hub.domain.study import Study
from hub.errors import ConfigError, RejectedError
from hub.formats.manifest.model_manifest import read_manifest
from hub.formats.ucum import value_in
from hub.ports import AdapterContext, ModelAdapter, ModelPackage
from model_adapters.onnx_local import ADAPTER as ONNX_LOCAL
from model_adapters.onnx_local.config import OnnxLocalConfig
from model_adapters.open_inference import ADAPTER
from model_adapters.open_inference.config import OpenInferenceConfig, ServerConfig
from model_adapters.reference_models import LIVER_KIDNEY_SCORES
from tests.peers.inference_script import InferenceScript, inference_script
from tests.unit.adapters.toy_models import Files, WallClock
from tests.unit.observed import case, package_of_scores, request_of, usual_values

SERVED_AS = "scores"
VALUES = ("AST", "ALT", "platelets", "creatinine")


@dataclass
class Site:
    """A server with the reference model, and the adapters that ask it, and run it here."""

    script: InferenceScript
    here: ModelAdapter
    there: ModelAdapter

    def ask(
        self, adapter: ModelAdapter, package: ModelPackage, study: Study
    ) -> InferenceResult | Unsuitable:
        """As the pipeline asks: with the values that the model gets."""
        chosen = chosen_input(package.card, study, value_in).observations
        adapter.load(package)
        answer = adapter.infer(request_of(study, chosen, package.key))
        assert isinstance(answer, InferenceResult | Unsuitable)
        return answer

    def asked(self) -> int:
        """How often the server was asked for an inference."""
        return sum(one[":path"].endswith("/infer") for one in self.script.requests)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    none = Files(tmp_path_factory.mktemp("none"))
    graph = LIVER_KIDNEY_SCORES / "liver_kidney_scores.onnx"
    with inference_script(graph, SERVED_AS) as script:
        servers = (ServerConfig(url=script.url),)
        config = OpenInferenceConfig(processes=1, servers=servers)
        there = ADAPTER.build(config, AdapterContext("open_inference", none, WallClock()))
        context = AdapterContext("onnx_local", none, WallClock())
        here = ONNX_LOCAL.build(OnnxLocalConfig(processes=1), context)
        yield Site(script, here, there)
        here.close()
        there.close()


def on_server(script: InferenceScript, tensors: str, **card: Any) -> ModelPackage:
    """The reference model, whose manifest says that the server runs it."""
    package = package_of_scores()
    local = package.card.runtime
    assert isinstance(local, OnnxRuntime)
    runtime = OpenInferenceRuntime(
        kind="open_inference",
        url=script.url,
        model_name=SERVED_AS,
        inputs=local.inputs,
        tensors=tensors,  # type: ignore[arg-type]
    )
    key = replace(package.key, sha256=f"{tensors}{sorted(card)}")
    return ModelPackage(key, replace(package.card, runtime=runtime, **card), package.directory)


@pytest.mark.parametrize("tensors", ["json", "binary"])
def test_the_scores_are_those_of_the_local_graph(site: Site, tensors: str) -> None:
    study = case(*usual_values())
    here = site.ask(site.here, package_of_scores(), study)
    site.script.takes = (tensors,)
    there = site.ask(site.there, on_server(site.script, tensors), study)
    assert isinstance(here, InferenceResult)
    assert isinstance(there, InferenceResult)
    assert there.findings == here.findings
    assert [one.value for one in there.findings] == [1.32, None, 88]
    ids = tuple(one.observation_id for one in usual_values())
    assert [one.derived_from for one in there.findings] == [ids[:3], ids[:3], ids[3:]]
    assert there.region is None
    assert there.ran_on == f"open_inference {site.script.url} {SERVED_AS}/1"


@pytest.mark.parametrize("lacking", range(4), ids=VALUES)
def test_without_a_value_that_the_model_needs_the_server_is_not_asked(
    site: Site, lacking: int
) -> None:
    site.script.takes = ("json", "binary")
    study, package = case(*usual_values()), on_server(site.script, "json")
    site.there.load(package)
    given = (*usual_values()[:lacking], *usual_values()[lacking + 1 :])
    before = site.asked()
    with pytest.raises(RejectedError, match=VALUES[lacking]):
        _refused(site.there.infer(request_of(study, given, package.key)))
    assert site.asked() == before


def _refused(answer: object) -> None:
    """An adapter may say so as an answer, too."""
    assert isinstance(answer, Unsuitable), answer
    raise RejectedError("; ".join(answer.reasons))


def test_a_value_that_may_be_missing_reaches_the_server_as_nan(site: Site) -> None:
    """FIB-4 needs no creatinine; of a rate without it nothing is made."""
    site.script.takes = ("binary",)
    package = on_server(site.script, "binary", **_creatinine_is_optional())
    values = [one for one in usual_values() if one.codes[0].code_value != "2160-0"]
    there = site.ask(site.there, package, case(*values))
    assert isinstance(there, InferenceResult)
    assert there.outcome is Outcome.ASSESSED
    assert [one.value for one in there.findings] == [1.32]
    whole = site.ask(site.there, package, case(*usual_values()))
    assert isinstance(whole, InferenceResult)
    assert whole.findings == there.findings


def _creatinine_is_optional() -> dict[str, Any]:
    card = package_of_scores().card
    assert isinstance(card.input, ObservationsInput)
    specs = tuple(
        replace(spec, required=spec.name != "creatinine") for spec in card.input.observations
    )
    return {
        "input": replace(card.input, observations=specs),
        "output": replace(card.output, findings=card.output.findings[:1]),
    }


def test_json_tensors_and_values_that_may_be_missing_do_not_go_together(
    site: Site, tmp_path: Path
) -> None:
    text = (LIVER_KIDNEY_SCORES / "model.yaml").read_text("utf-8")
    head, rest = text.split("runtime:\n")
    inputs, tail = rest.split("  timeout_seconds:")
    inputs = "  inputs:\n" + inputs.split("  inputs:\n")[1]
    server = f"  kind: open_inference\n  url: {site.script.url}\n  model_name: {SERVED_AS}\n"
    optional = head.replace("- name: creatinine\n", "- name: creatinine\n      required: false\n")

    def manifest(start: str, tensors: str) -> str:
        runtime = f"runtime:\n{server}  tensors: {tensors}\n{inputs}  timeout_seconds:{tail}"
        return start + runtime

    where = str(tmp_path / "model.yaml")
    read_manifest(manifest(head, "json"), where)
    read_manifest(manifest(optional, "binary"), where)
    with pytest.raises(ConfigError) as caught:
        read_manifest(manifest(optional, "json"), where)
    (problem,) = caught.value.problems
    assert problem.field == "runtime.tensors"
    assert "creatinine may be missing" in problem.message
