"""The messages of the Open Inference Protocol: what is sent, and what is refused of answers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hub.errors import RejectedError
from model_adapters.open_inference.protocol import (
    DTYPES,
    HEADER_LENGTH,
    Asked,
    TensorMetadata,
    decode_answer,
    encode_request,
    model_metadata,
)

SENT = ("float32", "int16", "uint8")
"""What manifests feed models with."""
ANSWERED = sorted(DTYPES)

Array = np.ndarray[Any, np.dtype[Any]]


def tensors(dtype: str) -> st.SearchStrategy[Array]:
    shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    finite = {"allow_nan": False, "allow_infinity": False} if "float" in dtype else {}
    return arrays.arrays(dtype, shapes, elements=arrays.from_dtype(np.dtype(dtype), **finite))


def asked(*outputs: TensorMetadata) -> Asked:
    return Asked("r1", "m", outputs)


def json_output(name: str, datatype: str, array: Array) -> dict[str, Any]:
    data = array.reshape(-1).tolist()
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


# --- requests ----------------------------------------------------------------------------


@given(st.sampled_from(SENT).flatmap(tensors))
def test_json_says_every_element_in_order(array: Array) -> None:
    message = encode_request("r1", {"x": array}, ["y"], binary=False)
    assert message.headers == {"Content-Type": "application/json"}
    (tensor,) = json.loads(message.content)["inputs"]
    assert tensor["shape"] == list(array.shape)
    assert DTYPES[tensor["datatype"]] == str(array.dtype)
    assert np.array_equal(np.array(tensor["data"], array.dtype).reshape(array.shape), array)
    assert len(tensor["data"]) == array.size


@given(st.lists(st.sampled_from(SENT).flatmap(tensors), min_size=1, max_size=3))
def test_binary_tensors_follow_their_text_in_order(feeds: list[Array]) -> None:
    named = {f"x{number}": array for number, array in enumerate(feeds)}
    message = encode_request("r1", named, ["y"], binary=True)
    length = int(message.headers[HEADER_LENGTH])
    text, data = json.loads(message.content[:length]), message.content[length:]
    assert text["outputs"] == [{"name": "y", "parameters": {"binary_data": True}}]
    for tensor, array in zip(text["inputs"], feeds, strict=True):
        size = tensor["parameters"]["binary_data_size"]
        assert "data" not in tensor
        kind = array.dtype.newbyteorder("<")
        assert np.array_equal(np.frombuffer(data[:size], kind).reshape(array.shape), array)
        data = data[size:]
    assert data == b""


def test_a_transposed_array_is_sent_row_by_row() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    plain = encode_request("r", {"x": array}, [], binary=False)
    assert json.loads(plain.content)["inputs"][0]["data"] == [0, 3, 1, 4, 2, 5]
    packed = encode_request("r", {"x": array}, [], binary=True)
    assert packed.content.endswith(np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_number_for_what_is_not_finite(value: float) -> None:
    feeds = {"x": np.array([1.0, value], np.float32)}
    with pytest.raises(RejectedError, match="x is not finite"):
        encode_request("r", feeds, ["y"], binary=False)
    packed = encode_request("r", feeds, ["y"], binary=True)
    assert packed.content.endswith(feeds["x"].tobytes())


# --- answers -----------------------------------------------------------------------------


@given(st.data(), st.sampled_from(ANSWERED), st.sampled_from(["json", "nested", "binary"]))
def test_an_answer_is_read_in_either_form(data: st.DataObject, datatype: str, form: str) -> None:
    array = data.draw(tensors(DTYPES[datatype]))
    output = json_output("y", datatype, array)
    tail, header = b"", None
    if form == "nested":
        output["data"] = array.tolist() if array.ndim else [array.tolist()]
    if form == "binary" or datatype == "FP16":
        tail = array.astype(array.dtype.newbyteorder("<")).tobytes()
        del output["data"]
        output["parameters"] = {"binary_data_size": len(tail)}
    text = json.dumps({"model_name": "m", "id": "r1", "outputs": [output]}).encode()
    header = str(len(text)) if tail or "parameters" in output else None
    wanted = TensorMetadata("y", datatype, (-1,) * array.ndim)
    found = decode_answer(bytearray(text + tail), header, asked(wanted))
    assert found.version == ""
    assert found.tensors["y"].dtype == array.dtype
    assert found.tensors["y"].shape == array.shape
    assert np.array_equal(found.tensors["y"], array)


def test_binary_numbers_may_be_other_than_finite_as_those_of_a_local_model() -> None:
    array = np.array([math.nan, math.inf], "<f4")
    output = {"name": "y", "datatype": "FP32", "shape": [2]}
    text = json.dumps(
        {
            "model_name": "m",
            "model_version": "7",
            "outputs": [output | {"parameters": {"binary_data_size": 8}}],
        }
    ).encode()
    wanted = asked(TensorMetadata("y", "FP32", (2,)))
    found = decode_answer(bytearray(text + array.tobytes()), str(len(text)), wanted)
    assert np.array_equal(found.tensors["y"], array, equal_nan=True)
    assert found.version == "7"


def test_outputs_that_nobody_asked_for_are_passed_over() -> None:
    other = {"name": "z", "datatype": "BYTES", "shape": [1]}
    wanted = {"name": "y", "datatype": "UINT8", "shape": [2]}
    text = json.dumps(
        {
            "model_name": "m",
            "outputs": [
                other | {"parameters": {"binary_data_size": 3}},
                wanted | {"parameters": {"binary_data_size": 2}},
                other | {"name": "w", "data": ["text"]},
            ],
        }
    ).encode()
    whole = bytearray(text + b"abc" + b"\x05\x06")
    found = decode_answer(whole, str(len(text)), asked(TensorMetadata("y", "UINT8", (2,))))
    assert {name: array.tolist() for name, array in found.tensors.items()} == {"y": [5, 6]}


Y = {"name": "y", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}
GOOD = {"model_name": "m", "model_version": "1", "id": "r1", "outputs": [Y]}


def with_y(**changes: Any) -> dict[str, Any]:
    return GOOD | {"outputs": [{k: v for k, v in (Y | changes).items() if v is not ...}]}


def packed(size: Any, tail: bytes, **changes: Any) -> tuple[bytes, str]:
    output = with_y(data=..., parameters={"binary_data_size": size}, **changes)
    text = json.dumps(output).encode()
    return text + tail, str(len(text))


EIGHT = np.array([1, 2], "<f4").tobytes()
MALFORMED: dict[str, tuple[Any, str | None, str]] = {
    "no JSON": (b"<html>", None, "no JSON"),
    "NaN as Python writes it": (b'{"model_name": "m", "outputs": NaN}', None, "no JSON"),
    "cut off": (json.dumps(GOOD).encode()[:-5], None, "no JSON"),
    "empty": (b"", None, "no JSON"),
    "a list": ([GOOD], None, "no JSON object"),
    "another model": (GOOD | {"model_name": "other"}, None, "another model"),
    "no model": ({"outputs": [Y]}, None, "another model"),
    "another request": (GOOD | {"id": "r2"}, None, "another request"),
    "a version that is a number": (GOOD | {"model_version": 1}, None, "model_version"),
    "no outputs": ({"model_name": "m"}, None, "has no outputs"),
    "outputs that are an object": (GOOD | {"outputs": {"y": Y}}, None, "has no outputs"),
    "an output that is a text": (GOOD | {"outputs": ["y"]}, None, "no JSON object"),
    "the wrong output": (with_y(name="z"), None, "lacks the outputs y"),
    "none of the outputs": (GOOD | {"outputs": []}, None, "lacks the outputs y"),
    "an output twice": (GOOD | {"outputs": [Y, Y]}, None, "comes twice"),
    "an output without a name": (with_y(name=...), None, "name is missing"),
    "no datatype": (with_y(datatype=...), None, "datatype is missing"),
    "another datatype": (with_y(datatype="FP64"), None, "not of the datatype"),
    "texts": (with_y(datatype="BYTES", data=["a", "b"]), None, "not of the datatype"),
    "no shape": (with_y(shape=...), None, "no list of sizes"),
    "a size below zero": (with_y(shape=[-1]), None, "no list of sizes"),
    "a size that is a fraction": (with_y(shape=[2.0]), None, "no list of sizes"),
    "a size that is true": (with_y(shape=[True]), None, "no list of sizes"),
    "a size beyond memory": (with_y(shape=[1 << 62]), None, "no list of sizes"),
    "another shape": (with_y(shape=[3], data=[1, 2, 3]), None, "not the shape"),
    "more axes": (with_y(shape=[1, 2]), None, "not the shape"),
    "too few elements": (with_y(data=[1.0]), None, "length of data"),
    "too many elements": (with_y(data=[1.0, 2.0, 3.0]), None, "length of data"),
    "no data": (with_y(data=...), None, "has no data"),
    "data that is a number": (with_y(data=2.0), None, "has no data"),
    "null": (with_y(data=[1.0, None]), None, "something else than finite"),
    "a text as a number": (with_y(data=[1.0, "2.0"]), None, "something else than finite"),
    "true as a number": (with_y(data=[1.0, True]), None, "something else than finite"),
    "a number beyond float32": (with_y(data=[1.0, 1e39]), None, "beyond its datatype"),
    "nested otherwise": (with_y(data=[[1.0, 2.0]]), None, "nesting"),
    "a header length of nothing": (GOOD, "", "is no number"),
    "a header length below zero": (GOOD, "-1", "is no number"),
    "a header length beyond the end": (GOOD, "99999", "larger than the answer"),
    "binary data too short": (*packed(8, EIGHT[:-1]), "too short"),
    "binary data too long": (*packed(8, EIGHT + b"\0"), "more binary data"),
    "a size that is not the shape's": (*packed(4, EIGHT[:4]), "agree with the shape"),
    "a binary size that is a text": (*packed("8", EIGHT), "is no size"),
    "a binary size below zero": (*packed(-8, EIGHT), "is no size"),
    "both forms": (with_y(parameters={"binary_data_size": 0}), None, "both as JSON and"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_answer_is_refused_with_its_fault(case: str) -> None:
    document, header, said = MALFORMED[case]
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(RejectedError, match=said) as caught:
        decode_answer(bytearray(body), header, asked(TensorMetadata("y", "FP32", (2,))))
    assert len(str(caught.value)) < 150


def test_the_answer_that_the_table_breaks_is_good() -> None:
    wanted = asked(TensorMetadata("y", "FP32", (2,)))
    assert decode_answer(bytearray(json.dumps(GOOD).encode()), None, wanted).version == "1"
    body, header = packed(8, EIGHT)
    found = decode_answer(bytearray(body), header, wanted)
    assert found.tensors["y"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("datatype", "data", "said"),
    [
        ("UINT8", [1, 256], "beyond its datatype"),
        ("UINT8", [1, -1], "beyond its datatype"),
        ("INT64", [1, 1 << 63], "beyond its datatype"),
        ("INT32", [1, 2.0], "something else"),
        ("INT32", [1, False], "something else"),
        ("BOOL", [True, 1], "something else"),
        ("FP16", [1.0, 2.0], "FP16 has to come as binary"),
    ],
)
def test_numbers_are_of_their_datatype(datatype: str, data: list[Any], said: str) -> None:
    body = bytearray(json.dumps(with_y(datatype=datatype, data=data)).encode())
    with pytest.raises(RejectedError, match=said):
        decode_answer(body, None, asked(TensorMetadata("y", datatype, (-1,))))


def test_a_binary_bool_is_0_or_1() -> None:
    body, header = packed(2, b"\x01\x02", datatype="BOOL")
    with pytest.raises(RejectedError, match="neither 0 nor 1"):
        decode_answer(bytearray(body), header, asked(TensorMetadata("y", "BOOL", (2,))))


# --- metadata ----------------------------------------------------------------------------

TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
MODEL = {"name": "m", "platform": "", "inputs": [TENSOR], "outputs": [TENSOR]}


def test_metadata_may_leave_the_versions_out() -> None:
    assert model_metadata(MODEL).versions == ()
    assert model_metadata(MODEL | {"versions": ["1"]}).versions == ("1",)
    assert model_metadata(MODEL).inputs == (TensorMetadata("x", "FP32", (-1, 3)),)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        None,
        MODEL | {"name": ""},
        MODEL | {"versions": "1"},
        MODEL | {"versions": [1]},
        MODEL | {"inputs": []},
        MODEL | {"outputs": None},
        MODEL | {"inputs": [TENSOR, TENSOR]},
        MODEL | {"inputs": ["x"]},
        MODEL | {"inputs": [TENSOR | {"shape": [-2]}]},
        MODEL | {"inputs": [TENSOR | {"shape": "any"}]},
        MODEL | {"inputs": [TENSOR | {"datatype": 1}]},
    ],
)
def test_what_is_no_metadata_is_refused(wrong: Any) -> None:
    with pytest.raises(RejectedError, match="cannot be used"):
        model_metadata(wrong)
