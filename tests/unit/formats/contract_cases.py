"""Results as no model has ever given them, and the published examples."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hub.domain.coding import Code
from hub.domain.finding import (
    Evidence,
    Finding,
    FramePlace,
    GraphicType,
    ImageLocation,
    Presence,
    Region,
    Segment,
)
from hub.domain.identity import derived_uid
from hub.domain.inference import (
    InferenceRequest,
    InferenceResult,
    ModelKey,
    Outcome,
    Timing,
)
from tests.builders import chest_ct_study, request_for

ROOT = Path(__file__).parents[3]
CONTRACT = ROOT / "docs" / "contract"
EXAMPLES = CONTRACT / "examples"
NOW = datetime(2026, 3, 14, 8, 31, tzinfo=UTC)
EXAMPLE_STUDY = "2.25.301845976231480932871230154407218113"


def example(name: str) -> dict[str, Any]:
    """One of docs/contract/examples."""
    found: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text())
    return found


def example_request() -> InferenceRequest:
    """The request that the examples of answers are about."""
    study = chest_ct_study(2, rows=8, columns=8, study_instance_uid=EXAMPLE_STUDY)
    asked = example("request-ct-with-prior")
    model = asked["model"]
    return replace(
        request_for(study),
        request_id=asked["request_id"],
        model=ModelKey(model["id"], model["version"], model["sha256"]),
    )


# --- anything the contract can say -------------------------------------------------------

REQUEST = request_for(chest_ct_study(3, rows=4, columns=5))
UIDS = [i.sop_instance_uid for i in REQUEST.study.instances]

_words = st.text(
    st.characters(min_codepoint=32, max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"]),
    min_size=1,
    max_size=40,
)
_sentences = st.lists(_words, max_size=3).map(tuple)
_codes = st.builds(
    Code,
    st.from_regex(r"[A-Za-z0-9\[\]'/.-]{1,16}", fullmatch=True),
    st.sampled_from(["SCT", "LN", "DCM", "99ACME"]),
    _words,
)
_units = st.builds(
    Code, st.from_regex(r"[A-Za-z0-9/\[\]]{1,8}", fullmatch=True), st.just("UCUM"), _words
)
_tracking_uids = st.integers(0, 2**100).map(lambda number: f"2.25.{number}")
_numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
_frames = st.integers(1, 65536)
_evidence = st.builds(
    Evidence, st.sampled_from(UIDS), st.lists(_frames, max_size=3, unique=True).map(tuple)
)
_MOST = {GraphicType.POINT: 1, GraphicType.CIRCLE: 2, GraphicType.ELLIPSE: 4}
_FEWEST = {**_MOST, GraphicType.MULTIPOINT: 1, GraphicType.POLYLINE: 2}


@st.composite
def _locations(draw: st.DrawFn) -> ImageLocation:
    kind = draw(st.sampled_from(list(GraphicType)))
    points = st.tuples(_numbers, _numbers)
    found = draw(st.lists(points, min_size=_FEWEST[kind], max_size=_MOST.get(kind, 5)))
    uid = draw(st.sampled_from(UIDS))
    return ImageLocation(kind, uid, tuple(found), draw(st.none() | _frames))


@st.composite
def _findings(draw: st.DrawFn) -> Finding:
    answer = draw(st.sampled_from(["presence", "value", "coded_value"]))
    return Finding(
        tracking_uid=draw(_tracking_uids),
        tracking_identifier=draw(_words),
        code=draw(_codes),
        presence=draw(st.sampled_from(list(Presence))) if answer == "presence" else None,
        value=draw(_numbers) if answer == "value" else None,
        unit=draw(_units) if answer == "value" else None,
        coded_value=draw(_codes) if answer == "coded_value" else None,
        probability=draw(st.none() | st.floats(0, 1)),
        finding_site=draw(st.none() | _codes),
        laterality=draw(st.none() | _codes),
        evidence=tuple(draw(st.lists(_evidence, max_size=3))),
        derived_from=tuple(draw(st.lists(st.just("0a1b2c3d"), max_size=2))),
        segment_numbers=tuple(draw(st.lists(st.integers(1, 255), max_size=3))),
        statement=draw(st.just("") | _words),
        locations=tuple(draw(st.lists(_locations(), max_size=2))),
    )


@st.composite
def _segments(draw: st.DrawFn, number: int) -> Segment:
    return Segment(
        number=number,
        label=draw(_words),
        category=draw(_codes),
        property_type=draw(_codes),
        tracking_uid=draw(_tracking_uids),
        tracking_identifier=draw(_words),
        recommended_display_rgb=draw(st.tuples(*[st.integers(0, 255)] * 3)),
    )


_three = st.tuples(_numbers, _numbers, _numbers)
_places = st.builds(
    FramePlace,
    number=_frames,
    image_position_patient=st.none() | _three,
    image_orientation_patient=st.none() | st.tuples(*[_numbers] * 6),
    pixel_spacing=st.none() | st.tuples(_numbers, _numbers),
    slice_thickness=st.none() | _numbers,
)


@st.composite
def _regions(draw: st.DrawFn) -> Region:
    planes = draw(st.integers(1, 3))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    voxels = planes * rows * columns
    numbers = draw(st.lists(st.integers(1, 255), min_size=1, max_size=3, unique=True))
    segments = tuple(draw(_segments(number)) for number in numbers)
    nested = draw(st.booleans())
    has_frames, is_sure = draw(st.booleans()), draw(st.booleans())
    sure = voxels * len(segments)
    return Region(
        sop_instance_uids=tuple(UIDS[:planes]),
        rows=rows,
        columns=columns,
        labels=draw(st.binary(min_size=voxels, max_size=voxels)),
        segments=segments,
        includes=((numbers[0], tuple(numbers)),) if nested else (),
        frames=tuple(draw(_places) for _ in range(planes)) if has_frames else (),
        probabilities=draw(st.binary(min_size=sure, max_size=sure)) if is_sure else b"",
    )


@st.composite
def results(draw: st.DrawFn) -> InferenceResult:
    """An answer about ``REQUEST``, or about somebody else."""
    is_assessed = draw(st.booleans())
    study_uid = draw(st.just(REQUEST.study.study_instance_uid) | _tracking_uids)
    version = draw(st.just(REQUEST.model.version) | st.just("9.9"))
    return InferenceResult(
        request_id=draw(st.just(REQUEST.request_id) | st.just("another")),
        model=replace(REQUEST.model, version=version),
        identity=replace(REQUEST.study.identity, study_instance_uid=study_uid),
        outcome=Outcome.ASSESSED if is_assessed else Outcome.NOT_ASSESSABLE,
        findings=tuple(draw(st.lists(_findings(), min_size=int(is_assessed), max_size=3))),
        region=draw(st.none() | _regions()),
        reasons=draw(_sentences) if is_assessed else ("It cannot tell.",),
        warnings=draw(_sentences),
        timings=tuple(draw(st.lists(st.builds(Timing, _words, st.floats(0, 1e6)), max_size=2))),
    )


def tracking_uid(name: str) -> str:
    """What the hub derives for what brings none, as local models do."""
    return derived_uid(EXAMPLE_STUDY, "lung-density", name)
