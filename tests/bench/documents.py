"""What the documents of a report cost: milliseconds each, beside highdicom, and their share of the
time from the last image to the report.

``python -m tests.bench results`` encodes the result of a CT of 200 x 512 x 512, and has a hub of
its own report on such a study.
"""

from __future__ import annotations

import argparse
import gc
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import highdicom
import numpy as np
import pydicom
from highdicom.sr.coding import CodedConcept
from pydicom.sr.codedict import codes
from rich.console import Console
from rich.table import Table

from hub.bootstrap.encoding import ENCODERS
from hub.domain.coding import Code
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import ParametricMap, Region
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.formats.dicom.writer import fitted
from hub.formats.images.ct_phantom import chest_phantom
from tests import builders
from tests.bench.path_floor import request_about
from tests.bench.path_hub import QUIET_SECONDS, running_hub
from tests.bench.path_study import new_study, running_peers
from tests.bench.results import FOLDER, Parts, facts, medians, write
from tests.unit.formats.encoded import CONTEXT

SLICES = 200
_NOT_HERE = (DocumentKind.KEY_IMAGE, DocumentKind.REJECTION_NOTE)
"""The key image is decoded by a process of its own; a rejection belongs to a withdrawal."""
PACKAGES = ("caidx-hub", "highdicom", "pydicom", "fhir.resources", "reportlab", "numpy")

Encode = Callable[[], object]


class Case:
    """One result, and how both sides encode it."""

    def __init__(self, slices: int) -> None:
        files = chest_phantom(slices=slices).files
        self.request = request_about(files, builders.request_for(builders.chest_ct_study(1)).model)
        self.result = _result(self.request)
        self.card = builders.model_card()
        self.images = [pydicom.dcmread(io.BytesIO(f), stop_before_pixels=True) for f in files]
        self.made: dict[DocumentKind, Document] = {}
        for kind in ENCODERS:
            if kind not in _NOT_HERE:
                document = self.ours(kind)()
                if isinstance(document, Document):
                    self.made[kind] = document

    def ours(self, kind: DocumentKind) -> Encode:
        """Our encoder, with the documents that it refers to."""
        context = replace(CONTEXT, profile="bench")
        related = dict(self.made)
        encode = ENCODERS[kind]
        return lambda: encode(self.request, self.result, self.card, context, related)

    def theirs(self) -> Mapping[DocumentKind, Encode]:
        """highdicom's, where it has the same object."""
        segmentation = pydicom.dcmread(io.BytesIO(self.made[DocumentKind.SEG].content))
        return {
            DocumentKind.SEG: lambda: self._segmentation("BINARY"),
            DocumentKind.SEG_FRACTIONAL: lambda: self._segmentation("FRACTIONAL"),
            DocumentKind.SR: lambda: self._report(segmentation),
        }

    def _segmentation(self, kind: str) -> bytes:
        region = self.result.region
        assert region is not None
        shape = (len(region.sop_instance_uids), region.rows, region.columns)
        labels = np.frombuffer(region.labels, np.uint8).reshape(shape)
        masks = np.stack([np.isin(labels, region.values_of(s.number)) for s in region.segments], -1)
        made = highdicom.seg.Segmentation(
            source_images=self.images,
            pixel_array=masks.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
            segmentation_type=kind,
            segment_descriptions=[_description(segment) for segment in region.segments],
            omit_empty_frames=True,
            **_equipment(1),
        )
        return _written(made)

    def _report(self, segmentation: pydicom.Dataset) -> bytes:
        observer = highdicom.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=highdicom.sr.DeviceObserverIdentifyingAttributes(
                uid=highdicom.UID()
            ),
        )
        measurements = [
            highdicom.sr.Measurement(
                name=_concept(finding.code), value=finding.value, unit=_concept(finding.unit)
            )
            for finding in self.result.findings
            if finding.value is not None and finding.unit is not None
        ]
        sources = [
            highdicom.sr.SourceImageForSegmentation.from_source_image(i) for i in self.images
        ]
        group = highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=highdicom.sr.ReferencedSegment(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                segment_number=1,
                source_images=sources,
            ),
            tracking_identifier=highdicom.sr.TrackingIdentifier(highdicom.UID(), "Lungs"),
            measurements=measurements,
        )
        content = highdicom.sr.MeasurementReport(
            observation_context=highdicom.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=_concept(self.card.procedure.procedure_reported),
            imaging_measurements=[group],
            title=codes.DCM.ImagingMeasurementReport,
            referenced_images=self.images,
        )
        made = highdicom.sr.Comprehensive3DSR(
            evidence=[*self.images, segmentation],
            content=content[0],
            **{k: v for k, v in _equipment(2).items() if k != "device_serial_number"},
        )
        return _written(made)


def _result(request: InferenceRequest) -> InferenceResult:
    result = builders.assessed(request)
    region = result.region
    assert region is not None
    return replace(
        result,
        region=_with_probabilities(region),
        maps=(
            ParametricMap(
                sop_instance_uids=region.sop_instance_uids,
                rows=region.rows,
                columns=region.columns,
                values=np.frombuffer(region.labels, np.uint8).astype("<f4").tobytes(),
                quantity=builders.EMPHYSEMA,
                unit=builders.PERCENT,
                label="Attenuation",
            ),
        ),
    )


def _with_probabilities(region: Region) -> Region:
    labels = np.frombuffer(region.labels, np.uint8)
    sure = [np.isin(labels, region.values_of(s.number)) for s in region.segments]
    return replace(region, probabilities=(np.stack(sure) * np.uint8(200)).tobytes())


def _equipment(number: int) -> dict[str, Any]:
    return {
        "series_instance_uid": highdicom.UID(),
        "series_number": number,
        "sop_instance_uid": highdicom.UID(),
        "instance_number": 1,
        "manufacturer": "bench",
        "manufacturer_model_name": "bench",
        "software_versions": "1",
        "device_serial_number": "1",
    }


def _description(segment: Any) -> highdicom.seg.SegmentDescription:
    return highdicom.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=fitted(segment.label, 64),
        segmented_property_category=_concept(segment.category),
        segmented_property_type=_concept(segment.property_type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="bench", version="1", family=codes.cid7162.ArtificialIntelligence
        ),
    )


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.code_value, code.coding_scheme_designator, code.code_meaning)


def _written(made: pydicom.Dataset) -> bytes:
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _seconds(encode: Encode) -> float:
    gc.collect()
    begun = perf_counter()
    encode()
    return perf_counter() - begun


def measure(case: Case, rounds: int) -> tuple[dict[str, Parts], dict[str, float]]:
    """Both sides' medians in seconds, and ours over theirs."""
    ours = {kind: case.ours(kind) for kind in case.made}
    theirs = case.theirs()
    rounds_ours: list[Parts] = []
    rounds_theirs: list[Parts] = []
    for _ in range(rounds + 1):  # the first one warms up
        rounds_ours.append({kind.value: _seconds(encode) for kind, encode in ours.items()})
        rounds_theirs.append({kind.value: _seconds(encode) for kind, encode in theirs.items()})
    sides = {"hub": medians(rounds_ours[1:]), "highdicom": medians(rounds_theirs[1:])}
    ratios = {f"{k}_over_highdicom": sides["hub"][k] / s for k, s in sides["highdicom"].items()}
    return sides, ratios


def share_of_path(folder: Path, slices: int, rounds: int) -> dict[str, float]:
    """Of the time from the last image to the last confirmed delivery, without the quiet time: the
    part of each encoder in a running hub."""
    shares: list[Parts] = []
    with running_peers(folder) as peers, running_hub(folder / "hub", peers) as hub:
        for number in range(rounds + 1):
            peers.reset()
            parts = hub.report_on(new_study(folder / str(number), slices))
            beyond = parts["total"] - QUIET_SECONDS
            encoding = {k: s / beyond for k, s in parts.items() if k.startswith("encode")}
            shares.append({**encoding, "encoding": sum(encoding.values()), "seconds": beyond})
    return medians(shares[1:])


def main(arguments: Sequence[str]) -> int:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench results", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (at least 5)")
    options = parser.parse_args(arguments)
    if options.rounds < 5:
        parser.error("a median of fewer than 5 rounds says little")
    console = Console()
    sides, ratios = measure(Case(SLICES), options.rounds)
    table = Table(title=f"result of {SLICES} x 512 x 512, medians of {options.rounds} rounds, ms")
    for column in ("document", "hub", "highdicom", "hub / highdicom"):
        table.add_column(column, justify="left" if column == "document" else "right")
    for kind, seconds in sides["hub"].items():
        other, ratio = sides["highdicom"].get(kind), ratios.get(f"{kind}_over_highdicom")
        beside = ("", "") if other is None else (f"{1000 * other:.1f}", f"{ratio:.3f}")
        table.add_row(kind, f"{1000 * seconds:.1f}", *beside)
    console.print(table)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="results-", dir=FOLDER) as folder:
        shares = share_of_path(Path(folder).absolute(), SLICES, 5)
    for part, share in shares.items():
        unit = f"{share:.2f} s" if part == "seconds" else f"{100 * share:.1f} %"
        console.print(f"of the time beyond the quiet time, {part}: {unit}")
    result = {
        "ratios": ratios | {"encoding_over_path": shares["encoding"]},
        "milliseconds": {
            side: {k: 1000 * s for k, s in one.items()} for side, one in sides.items()
        },
        "shares_of_path": shares,
        "rounds": options.rounds,
        **facts(*PACKAGES),
    }
    console.print(f"kept in {write('results', result)}")
    return 0
