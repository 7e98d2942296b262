"""Builds ``liver-kidney-scores/liver_kidney_scores.onnx``: FIB-4 and eGFR as a plain ONNX graph.

Nothing is learned; every constant stands below with its source. The same source and the same
``onnx`` release give the same bytes. ``python -m
model_adapters.reference_models.liver_kidney_scores_graph`` writes the file anew.

* FIB-4 = age x AST / (platelets x sqrt(ALT)): Sterling et al., Hepatology 2006;43:1317-1325.
  It is rounded to two decimals, as laboratories report it, and the rounded number is classified.
* eGFR = 142 x min(creatinine/k, 1)^a x max(creatinine/k, 1)^-1.2 x 0.9938^age, x 1.012 for
  women: CKD-EPI 2021, without race. Inker et al., New England Journal of Medicine
  2021;385:1737-1749.

Inputs, float32 (1,): ``AST`` and ``ALT`` in U/L, ``platelets`` in 10*9/L, ``creatinine`` in mg/dL,
``age_years``, ``is_female`` (1 or 0). Outputs, float32: ``fib4`` and ``egfr`` (1,); ``fib4_class``
(4,), 1 at one place: low, indeterminate, high, no validated cut-off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.numpy_helper import from_array

GRAPH_FILE: Final = Path(__file__).parent / "liver-kidney-scores" / "liver_kidney_scores.onnx"
OPSET: Final = 18
IR_VERSION: Final = 8

HIGH_ABOVE: Final = 2.67
"""Shah et al., Clinical Gastroenterology and Hepatology 2009;7:1104-1112."""
LOW_BELOW: Final = 1.3
"""The same, and for 35 to 64 years McPherson et al., American Journal of Gastroenterology
2017;112:740-751."""
LOW_BELOW_FROM_65: Final = 2.0
"""McPherson 2017: below it from 65 years on, where 1.3 finds too many."""
OLDER_FROM: Final = 65.0
YOUNGEST: Final = 35.0
"""McPherson 2017: below 35 years FIB-4 does not tell advanced fibrosis."""

SCALE: Final = 142.0
KNOT: Final = (0.9, 0.7)
"""k of men and women, mg/dL."""
BELOW_KNOT: Final = (-0.302, -0.241)
"""a of men and women."""
ABOVE_KNOT: Final = -1.2
PER_YEAR: Final = 0.9938
WOMEN: Final = 1.012

INPUTS: Final = ("AST", "ALT", "platelets", "creatinine", "age_years", "is_female")


class _Nodes:
    """Nodes in the order in which they are made."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def op(self, kind: str, *inputs: str, name: str = "") -> str:
        """Add a node; returns the name of its output."""
        output = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output]))
        return output

    def number(self, value: float) -> str:
        """A constant, (1,), in double precision."""
        output = f"v{len(self.nodes)}"
        tensor = from_array(np.array([value], np.float64))
        self.nodes.append(helper.make_node("Constant", [], [output], value=tensor))
        return output

    def cast(self, value: str, to: int, name: str = "") -> str:
        """The same numbers in another type."""
        output = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node("Cast", [value], [output], to=to))
        return output

    def of_sex(self, female: str, of_men_and_women: tuple[float, float]) -> str:
        """The constant that belongs to the sex."""
        men, women = (self.number(value) for value in of_men_and_women)
        return self.op("Where", female, women, men)


def _fib4(graph: _Nodes, inputs: dict[str, str]) -> str:
    """In hundredths, rounded."""
    above = graph.op("Mul", inputs["age_years"], inputs["AST"])
    below = graph.op("Mul", inputs["platelets"], graph.op("Sqrt", inputs["ALT"]))
    score = graph.op("Div", above, below)
    return graph.op("Round", graph.op("Mul", score, graph.number(100.0)))


def _fib4_class(graph: _Nodes, hundredths: str, age: str) -> None:
    """One-hot."""
    is_older = graph.op("GreaterOrEqual", age, graph.number(OLDER_FROM))
    limit = graph.op(
        "Where",
        is_older,
        graph.number(round(100 * LOW_BELOW_FROM_65)),
        graph.number(round(100 * LOW_BELOW)),
    )
    is_young = graph.op("Less", age, graph.number(YOUNGEST))
    is_adult = graph.op("Not", is_young)
    is_low = graph.op("Less", hundredths, limit)
    is_high = graph.op("Greater", hundredths, graph.number(round(100 * HIGH_ABOVE)))
    low = graph.op("And", is_adult, is_low)
    high = graph.op("And", is_adult, is_high)
    decided = graph.op("Or", graph.op("Or", low, high), is_young)
    marks = [
        graph.cast(mark, TensorProto.FLOAT)
        for mark in (low, graph.op("Not", decided), high, is_young)
    ]
    graph.nodes.append(helper.make_node("Concat", marks, ["fib4_class"], axis=0))


def _egfr(graph: _Nodes, inputs: dict[str, str]) -> str:
    female = graph.op("Greater", inputs["is_female"], graph.number(0.5))
    one = graph.number(1.0)
    ratio = graph.op("Div", inputs["creatinine"], graph.of_sex(female, KNOT))
    low = graph.op("Pow", graph.op("Min", ratio, one), graph.of_sex(female, BELOW_KNOT))
    high = graph.op("Pow", graph.op("Max", ratio, one), graph.number(ABOVE_KNOT))
    aged = graph.op("Pow", graph.number(PER_YEAR), inputs["age_years"])
    found = graph.op("Mul", graph.number(SCALE), graph.op("Mul", low, high))
    return graph.op("Mul", graph.op("Mul", found, aged), graph.of_sex(female, (1.0, WOMEN)))


def build() -> ModelProto:
    """The whole graph; it computes in double precision."""
    graph = _Nodes()
    inputs = {name: graph.cast(name, TensorProto.DOUBLE) for name in INPUTS}
    hundredths = _fib4(graph, inputs)
    score = graph.op("Div", hundredths, graph.number(100.0))
    graph.cast(score, TensorProto.FLOAT, "fib4")
    _fib4_class(graph, hundredths, inputs["age_years"])
    graph.cast(_egfr(graph, inputs), TensorProto.FLOAT, "egfr")
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in INPUTS]
    sizes = {"fib4": 1, "fib4_class": 4, "egfr": 1}
    found = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [s]) for n, s in sizes.items()]
    return helper.make_model(
        helper.make_graph(graph.nodes, "liver_kidney_scores", given, found),
        producer_name="caidx",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )


def graph_bytes() -> bytes:
    """The file's content."""
    return bytes(build().SerializeToString(deterministic=True))


if __name__ == "__main__":
    GRAPH_FILE.write_bytes(graph_bytes())
