"""Builds ``lung-density/lung_density.onnx``: lung density on CT as a plain ONNX graph.

No weights are learned; every constant stands below with its reason. The same source and the
same ``onnx`` release give the same bytes. ``python -m
model_adapters.reference_models.lung_density_graph`` writes the file anew.

How it works, in each axial slice, so that one slice is enough:

1. *air*: cells of about 3 mm in which every voxel lies below -400 HU. Taking the highest voxel
   of a cell keeps thin walls (trachea, diaphragm) closed.
2. *outside*: air that is connected with the border of the image.
3. *tissue*: enclosed air whose mean HU over 3 x 3 cells is that of lung tissue. A seed needs a
   square of 5 x 5 such cells and mostly tissue around it: the gas in trachea and bowel is darker
   and its rim is thin. From seeds, tissue is followed into neighbouring slices.
4. *lung*: enclosed air connected, within the slice, with such tissue. Bullae and the bronchi
   inside the lung are; the trachea, the main bronchi outside the lung and bowel gas are not.
5. On the full grid the lung is every voxel below -400 HU in or next to those cells; vessels
   above it do not count. Voxels below -950 HU are low-attenuation area.

Inputs: ``volume`` float32 (1, 1, slice, row, column) in HU, ``spacing_mm`` float32 (3,).
Outputs: ``labels`` uint8, shape of the volume (0 none, 1 lung, 2 low-attenuation area in the
lung); float32 scalars ``lung_volume_ml``, ``mean_lung_density_hu``, ``laa_950_percent``,
``largest_section_cm2`` (the largest lung area in one slice) and ``assessable`` (1 or 0). Where
there is no lung the three measurements are 0 and mean nothing: ``assessable`` is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx.numpy_helper import from_array

GRAPH_FILE: Final = Path(__file__).parent / "lung-density" / "lung_density.onnx"
OPSET: Final = 18
IR_VERSION: Final = 8

LUNG_BELOW_HU: Final = -400.0
"""Boundary of the lung: midway between soft tissue (about 40 HU) and aerated lung (about -850),
where an edge that is blurred on both sides keeps its place. Compare Kemerink et al., Medical
Physics 1998;25:2432, on thresholds for the volume of the lung."""
LOW_ATTENUATION_BELOW_HU: Final = -950.0
"""The threshold of emphysema on thin-section CT that agreed best with microscopy: Gevenois et
al., American Journal of Respiratory and Critical Care Medicine 1996;154:187."""
PARENCHYMA_HU: Final = (-930.0, -500.0)
"""Mean of a neighbourhood that counts as lung tissue: gas is darker, faeces are brighter."""
SMALLEST_SECTION_CM2: Final = 50.0
"""Lung area that one slice at least must show: more than the lowest recess of an abdomen CT."""
_CELL_FACTORS: Final = ((2.2, 1), (1.1, 2), (0.55, 4), (0.0, 8))
"""(pixel size in mm from which it holds, pixels joined along each side), largest first."""
TISSUE_SHARE: Final = 0.6
"""Share of lung tissue among the enclosed air around a place that makes it lung: the rim of gas
in the bowel has the density of lung, but surrounds gas."""
_SURROUNDINGS: Final = 9
"""Side, in cells, of the square that counts as the surroundings."""
_COARSE: Final = 4
"""Cells along each side of the blocks through which the outside is found quickly first."""
_MOST_ROUNDS: Final = 500


class _Nodes:
    """Collects the nodes of one graph or subgraph and names their outputs."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[NodeProto] = []

    def op(self, kind: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """Append a node with one output, whose name is returned."""
        name = to or f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: float | Sequence[int], dtype: type[np.generic]) -> str:
        """A scalar or vector."""
        name = f"{self.prefix}{len(self.nodes)}"
        return self.op("Constant", value=from_array(np.asarray(value, dtype=dtype), name))

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def number(self, value: float) -> str:
        return self.constant(value, np.float32)

    def cast(self, value: str, dtype: int, to: str = "") -> str:
        name = to or f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node("Cast", [value], [name], name=name, to=dtype))
        return name

    def below(self, value: str, limit: float) -> str:
        return self.op("Less", value, self.number(limit))

    def complement(self, mask: str) -> str:
        """1 - mask, for float masks of 0 and 1."""
        return self.op("Sub", self.number(1.0), mask)

    def dilate(self, mask: str, cells: int, dimensions: int = 2) -> str:
        """Grow a mask by so many cells along its last axes, diagonals included."""
        side, pads = [2 * cells + 1] * dimensions, [cells] * (2 * dimensions)
        return self.op("MaxPool", mask, kernel_shape=side, pads=pads)

    def size(self, value: str, axis: int) -> str:
        """Length of one axis, int64 (1,)."""
        return self.op("Shape", value, start=axis, end=axis + 1)


def _value(name: str, dtype: int, shape: Sequence[int | str] | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


# --- steps ---------------------------------------------------------------------------------


def _cells(graph: _Nodes, volume: str, pixel_mm: str) -> tuple[str, str, str]:
    """Highest and mean HU of cells of about 3 mm, (slice, 1, cell row, cell column), and the
    number of pixels along the side of a cell."""

    def branch(remaining: Sequence[tuple[float, int]], depth: int) -> GraphProto:
        inner = _Nodes(f"cells{depth}_")
        results = [f"cells{depth}_{name}" for name in ("high", "mean", "factor")]
        (_, factor), *others = remaining
        if others:
            large = inner.op("GreaterOrEqual", pixel_mm, inner.number(remaining[0][0]))
            inner.nodes.append(
                helper.make_node(
                    "If",
                    [large],
                    results,
                    name=f"cells{depth}",
                    then_branch=branch([(0.0, factor)], depth * 2 + 1),
                    else_branch=branch(others, depth * 2 + 2),
                )
            )
        else:
            window = {"kernel_shape": [factor, factor], "strides": [factor, factor]}
            inner.op("MaxPool", volume, to=results[0], ceil_mode=1, **window)
            inner.op(
                "AveragePool", volume, to=results[1], ceil_mode=1, count_include_pad=0, **window
            )
            inner.op("Identity", inner.ints(factor), to=results[2])
        kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64)
        outputs = [_value(name, kind, None) for name, kind in zip(results, kinds, strict=True)]
        return helper.make_graph(inner.nodes, f"cells{depth}", [], outputs)

    graph.nodes.extend(branch(_CELL_FACTORS, 0).node)
    return "cells0_high", "cells0_mean", "cells0_factor"


def _fill(graph: _Nodes, seed: str, mask: str, name: str, dimensions: int = 2) -> str:
    """Everything in the mask that is connected with a seed, slice by slice."""
    body = _Nodes(f"{name}_")
    grown = f"{name}_before"
    for _ in range(4):
        grown = body.op("Mul", body.dilate(grown, 1, dimensions), mask)
    # Rounds end when nothing was added; four dilations a round make that test cheap.
    added = body.op("ReduceMax", body.op("Sub", grown, f"{name}_before"), keepdims=0)
    body.op("Greater", added, body.number(0.0), to=f"{name}_again")
    body.op("Identity", grown, to=f"{name}_after")
    loop = helper.make_graph(
        body.nodes,
        name,
        [
            _value(f"{name}_round", TensorProto.INT64, []),
            _value(f"{name}_go", TensorProto.BOOL, []),
            _value(f"{name}_before", TensorProto.FLOAT, None),
        ],
        [
            _value(f"{name}_again", TensorProto.BOOL, []),
            _value(f"{name}_after", TensorProto.FLOAT, None),
        ],
    )
    rounds, go = graph.constant(_MOST_ROUNDS, np.int64), graph.constant(1, np.bool_)
    return graph.op("Loop", rounds, go, seed, to=name, body=loop)


def _mostly(graph: _Nodes, part: str, whole: str) -> str:
    """Where ``part`` makes up enough of ``whole`` in the surroundings."""
    window: dict[str, Any] = {
        "kernel_shape": [_SURROUNDINGS] * 2,
        "pads": [_SURROUNDINGS // 2] * 4,
    }
    share, total = (
        graph.op("AveragePool", mask, count_include_pad=1, **window)
        for mask in (graph.op("Mul", part, whole), whole)
    )
    least = graph.op("Mul", total, graph.number(TISSUE_SHARE))
    return graph.cast(graph.op("GreaterOrEqual", share, least), TensorProto.FLOAT)


def _across_slices(graph: _Nodes, seed: str, mask: str) -> str:
    """Everything in the mask that is connected with a seed in three dimensions."""
    axis, swapped = graph.ints(0), [1, 0, 2, 3]
    stacked = [
        graph.op("Unsqueeze", graph.op("Transpose", value, perm=swapped), axis)
        for value in (seed, mask)
    ]
    filled = _fill(graph, stacked[0], stacked[1], "across", dimensions=3)
    return graph.op("Transpose", graph.op("Squeeze", filled, axis), perm=swapped)


def _border(graph: _Nodes, mask: str) -> str:
    """(1, 1, row, column): 1 along the edge of the image, 0 within."""
    shape = graph.op("Shape", mask, start=2)
    # Images of one or two cells along a side are all edge.
    within = graph.op("Max", graph.op("Sub", shape, graph.ints(2, 2)), graph.ints(0, 0))
    rest = graph.op("Sub", graph.op("Sub", shape, within), graph.ints(1, 1))
    first = graph.ints(0, 0, 1, 1)
    pads = graph.op("Concat", first, graph.ints(0, 0), rest, axis=0)
    hole = graph.op(
        "ConstantOfShape",
        graph.op("Concat", graph.ints(1, 1), within, axis=0),
        value=from_array(np.zeros(1, np.float32), "zero"),
    )
    return graph.op("Pad", hole, pads, graph.number(1.0))


def _stretch(graph: _Nodes, value: str, axis: int, size: str, factor: str) -> str:
    """Repeat each entry of an axis ``factor`` times, cut to ``size``."""
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    scalar = graph.op("Squeeze", size)
    source = graph.op("Div", graph.op("Range", zero, scalar, one), factor)
    return graph.op("Gather", value, source, axis=axis)


def _outside(graph: _Nodes, air: str) -> str:
    """Air that is connected with the border of the image.

    Blocks that are all air give the bulk in a few rounds; the cells then fill the corners.
    """
    block: dict[str, Any] = {
        "kernel_shape": [_COARSE, _COARSE],
        "strides": [_COARSE, _COARSE],
        "ceil_mode": 1,
    }
    blocks = graph.complement(graph.op("MaxPool", graph.complement(air), **block))
    seed = graph.op("Mul", blocks, _border(graph, blocks))
    bulk = _fill(graph, seed, blocks, "bulk")
    factor = graph.ints(_COARSE)
    wide = _stretch(graph, bulk, 3, graph.size(air, 3), factor)
    high = _stretch(graph, wide, 2, graph.size(air, 2), factor)
    edge = graph.op("Mul", air, _border(graph, air))
    return _fill(graph, graph.op("Max", high, edge), air, "outside")


def _lung_cells(graph: _Nodes, air: str, mean: str) -> str:
    """Cells in which voxels below -400 HU are lung: bool (slice, cell row, cell column)."""
    outside = _outside(graph, air)
    enclosed = graph.op("Sub", air, outside)
    core = graph.complement(graph.dilate(graph.complement(enclosed), 1))
    around = graph.op("AveragePool", mean, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=0)
    darkest, brightest = PARENCHYMA_HU
    tissue = graph.cast(
        graph.op(
            "And",
            graph.op("Greater", around, graph.number(darkest)),
            graph.below(around, brightest),
        ),
        TensorProto.FLOAT,
    )
    mostly = _mostly(graph, tissue, enclosed)
    inside = graph.complement(graph.dilate(graph.complement(tissue), 2))
    strong = graph.op("Mul", graph.op("Mul", inside, enclosed), mostly)
    weak = graph.op("Mul", graph.op("Mul", core, tissue), mostly)
    seed = _across_slices(graph, strong, graph.op("Max", weak, strong))
    lung = _fill(graph, seed, enclosed, "lung")
    # Cells on the edge of the lung hold wall and lung; those of other gas stay with the gas.
    other = graph.dilate(graph.op("Sub", air, lung), 1)
    rim = graph.op("Mul", graph.dilate(lung, 2), graph.complement(other))
    cells = graph.op("Max", lung, rim)
    return graph.op("Squeeze", graph.cast(cells, TensorProto.BOOL), graph.ints(1))


def _label_slices(graph: _Nodes, volume: str, cells: str, factor: str) -> tuple[str, str, str, str]:
    """Labels (slice, row, column), and per slice: lung voxels, their sum of HU, voxels < -950.

    A Scan works on one slice at a time, which keeps its arrays in the processor's cache.
    """
    body = _Nodes("slice_")
    wide = _stretch(body, "slice_cells", 1, body.size("slice_hu", 1), factor)
    where = _stretch(body, wide, 0, body.size("slice_hu", 0), factor)
    lung = body.op("And", where, body.below("slice_hu", LUNG_BELOW_HU))
    low = body.op("And", lung, body.below("slice_hu", LOW_ATTENUATION_BELOW_HU))
    both = [body.cast(mask, TensorProto.UINT8) for mask in (lung, low)]
    body.op("Add", *both, to="slice_labels")
    for mask, name in ((lung, "slice_voxels"), (low, "slice_low")):
        body.op("ReduceSum", body.cast(mask, TensorProto.FLOAT), to=name, keepdims=0)
    body.op(
        "ReduceSum",
        body.op("Where", lung, "slice_hu", body.number(0.0)),
        to="slice_sum",
        keepdims=0,
    )
    names = ("labels", "voxels", "sum", "low")
    kinds = (TensorProto.UINT8, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT)
    outputs = [
        _value(f"slice_{name}", kind, ["row", "column"] if name == "labels" else [])
        for name, kind in zip(names, kinds, strict=True)
    ]
    inputs = [
        _value("slice_hu", TensorProto.FLOAT, ["row", "column"]),
        _value("slice_cells", TensorProto.BOOL, ["cell_row", "cell_column"]),
    ]
    scan = helper.make_graph(body.nodes, "label_slice", inputs, outputs)
    results = ("all_labels", "all_voxels", "all_sums", "all_low")
    graph.nodes.append(
        helper.make_node(
            "Scan", [volume, cells], list(results), name="scan", body=scan, num_scan_inputs=2
        )
    )
    return results


def _measure(graph: _Nodes, voxels: str, sums: str, low: str) -> None:
    """From counts per slice to ml, HU, percent; double precision, so that sums are exact."""
    double = TensorProto.DOUBLE
    spacing = graph.cast("spacing_mm", double)
    ml = graph.op(
        "Div", graph.op("ReduceProd", spacing, keepdims=0), graph.constant(1000.0, np.float64)
    )
    pixel = graph.op(
        "ReduceProd",
        graph.op("Slice", spacing, graph.ints(1), graph.ints(3), graph.ints(0)),
        keepdims=0,
    )
    cm2 = graph.op("Div", pixel, graph.constant(100.0, np.float64))
    counts = graph.cast(voxels, double)
    total, total_hu, total_low = (
        graph.op("ReduceSum", per_slice, keepdims=0)
        for per_slice in (counts, graph.cast(sums, double), graph.cast(low, double))
    )
    divisor = graph.op("Max", total, graph.constant(1.0, np.float64))
    percent = graph.op("Mul", total_low, graph.constant(100.0, np.float64))
    section = graph.op("Mul", graph.op("ReduceMax", counts, keepdims=0), cm2)
    enough = graph.op("GreaterOrEqual", section, graph.constant(SMALLEST_SECTION_CM2, np.float64))
    for value, name in (
        (graph.op("Mul", total, ml), "lung_volume_ml"),
        (graph.op("Div", total_hu, divisor), "mean_lung_density_hu"),
        (graph.op("Div", percent, divisor), "laa_950_percent"),
        (section, "largest_section_cm2"),
        (enough, "assessable"),
    ):
        graph.cast(value, TensorProto.FLOAT, to=name)


def build() -> ModelProto:
    """The whole graph."""
    graph = _Nodes("v")
    pixel_mm = graph.op(
        "ReduceMax",
        graph.op("Slice", "spacing_mm", graph.ints(1), graph.ints(3), graph.ints(0)),
        keepdims=0,
    )
    planes = graph.op("Squeeze", "volume", graph.ints(0, 1))
    batch = graph.op("Unsqueeze", planes, graph.ints(1))
    high, mean, factor = _cells(graph, batch, pixel_mm)
    air = graph.cast(graph.below(high, LUNG_BELOW_HU), TensorProto.FLOAT)
    lung = _lung_cells(graph, air, mean)
    labels, voxels, sums, low = _label_slices(graph, planes, lung, factor)
    graph.op("Unsqueeze", labels, graph.ints(0, 1), to="labels")
    _measure(graph, voxels, sums, low)
    shape: list[int | str] = [1, 1, "slice", "row", "column"]
    scalars = (
        "lung_volume_ml",
        "mean_lung_density_hu",
        "laa_950_percent",
        "largest_section_cm2",
        "assessable",
    )
    inputs = [
        _value("volume", TensorProto.FLOAT, shape),
        _value("spacing_mm", TensorProto.FLOAT, [3]),
    ]
    outputs = [_value("labels", TensorProto.UINT8, shape)]
    outputs += [_value(name, TensorProto.FLOAT, []) for name in scalars]
    return helper.make_model(
        helper.make_graph(graph.nodes, "lung_density", inputs, outputs),
        producer_name="caidx",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )


def graph_bytes() -> bytes:
    """The file's content."""
    return bytes(build().SerializeToString(deterministic=True))


if __name__ == "__main__":
    GRAPH_FILE.write_bytes(graph_bytes())
