"""The floor of the path benchmark: the same work, done once, by a bare script in one warm process.

It keeps no record, may not be interrupted and knows its study before the clock starts: it
reads the files from the page cache, decodes and stacks them, runs the same graph with the
number of threads that suits it best, encodes the same documents with the same encoders and
sends each once, all DICOM objects over one association.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from statistics import median
from time import perf_counter
from typing import Any

import httpx
import onnxruntime
import pydicom

from connectors.dicom.requester import Peer, association, status_in
from hub.bootstrap.encoding import ENCODERS
from hub.domain.delivery import Document, DocumentKind
from hub.domain.finding import Evidence, Region
from hub.domain.inference import (
    ImagingInput,
    InferenceRequest,
    InferenceResult,
    InputRole,
    ModelKey,
    Outcome,
    Priority,
)
from hub.domain.model_input import VolumeInput
from hub.domain.study import Completeness, Instance, Location, Series, Study, StudyKey
from hub.formats.dicom.header import instance_from_header, scan_header
from hub.formats.dicom.part10 import split_part10
from hub.formats.encoding import EncodingContext
from hub.formats.images.volume import Volume, read_volume
from hub.ports import ModelPackage
from model_adapters.onnx_local.graph import Graph
from model_adapters.tensors.engine import Model
from model_adapters.tensors.postprocessing import findings_of
from model_adapters.tensors.preprocessing import Data, preprocess
from model_adapters.tensors.regions import includes_of, segments_of, source_labels
from model_adapters.tensors.values import Subject
from model_adapters.tensors.worker import keep_freed_memory
from tests.bench.path_study import Peers, StudyFiles
from tests.bench.results import Parts

MADE = (
    DocumentKind.PDF,
    DocumentKind.SEG,
    DocumentKind.SR,
    DocumentKind.ENCAPSULATED_PDF,
    DocumentKind.FHIR,
)
"""What the hub makes for the same destinations."""
PACS_DOCUMENTS = (DocumentKind.SEG, DocumentKind.SR, DocumentKind.ENCAPSULATED_PDF)
FHIR_HEADERS = {"Content-Type": "application/fhir+json", "Prefer": "return=minimal"}


class _Stopwatch:
    def __init__(self) -> None:
        self.parts: Parts = {}
        self._at = perf_counter()

    def lap(self, part: str) -> None:
        now = perf_counter()
        self.parts[part] = now - self._at
        self._at = now


class Floor:
    """A script that has imported, loaded and connected all that it needs."""

    def __init__(self, package: ModelPackage, peers: Peers, cores: int) -> None:
        keep_freed_memory()  # as the hub's workers do
        self._package = package
        self._peers = peers
        self._decoders = ThreadPoolExecutor(cores)
        self._client = httpx.Client(timeout=60)
        self._graphs = {threads: _graph(package, threads) for threads in sorted({1, cores})}

    def best_threads(self, study: StudyFiles, rounds: int = 5) -> int:
        """The number of threads with which this study's inference is fastest."""
        data = preprocess(self._package.card, self._volume(study))
        found: dict[int, list[float]] = {threads: [] for threads in self._graphs}
        for _ in range(rounds):
            for threads, graph in self._graphs.items():
                begun = perf_counter()
                graph.run(data)
                found[threads].append(perf_counter() - begun)
        return min(found, key=lambda threads: median(found[threads][1:]))

    def report_on(self, study: StudyFiles, threads: int) -> Parts:
        """Do everything once; seconds of each part."""
        files = [path.read_bytes() for path in study.paths]
        request = request_about(files, self._package.key)
        context = EncodingContext(
            made_at=datetime.now(UTC), institution_name="Bench", software_version="1"
        )
        card, graph = self._package.card, self._graphs[threads]
        watch = _Stopwatch()
        volume = self._volume(study)
        watch.lap("read and decode")
        data = preprocess(card, volume)
        watch.lap("preprocess")
        outputs = graph.run(data).tensors
        watch.lap("inference")
        result = _result(request, self._package, volume, data, outputs)
        watch.lap("postprocess")
        made: dict[DocumentKind, Document] = {}
        for kind in MADE:
            document = ENCODERS[kind](request, result, card, context, made)
            assert document is not None
            made[kind] = document
            watch.lap(f"encode {kind}")
        self._send(made)
        watch.lap("deliver (with its queue)")
        return {**watch.parts, "total": sum(watch.parts.values())}

    def close(self) -> None:
        self._client.close()
        self._decoders.shutdown()

    def _volume(self, study: StudyFiles) -> Volume:
        """File by file, so that no more memory is touched than the volume needs."""
        wanted = self._package.card.input
        assert isinstance(wanted, VolumeInput)
        return read_volume(
            (path.read_bytes() for path in study.paths),
            len(study.paths),
            spacing_tolerance=wanted.spacing_tolerance,
            decoders=self._decoders,
        )

    def _send(self, made: Mapping[DocumentKind, Document]) -> None:
        pacs = self._peers.pacs
        peer = Peer("127.0.0.1", pacs.dicom_port, pacs.ae_title, "BENCH")
        data_sets = [pydicom.dcmread(io.BytesIO(made[kind].content)) for kind in PACS_DOCUMENTS]
        contexts = [(d.SOPClassUID, [d.file_meta.TransferSyntaxUID]) for d in data_sets]
        with association(peer, contexts) as opened:
            for data_set in data_sets:
                assert status_in(opened.send_c_store(data_set)) == 0
        content = made[DocumentKind.FHIR].content
        url = self._peers.ehr.base_url
        self._client.post(url, content=content, headers=FHIR_HEADERS).raise_for_status()


def _graph(package: ModelPackage, threads: int) -> Model:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = package.artefacts[package.card.runtime.graph.path]
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Model(package.card, Graph(session))


def request_about(files: Sequence[bytes], model: ModelKey) -> InferenceRequest:
    """The question, with what the headers say; the hub knows it before the last image, too."""
    instances = tuple(_instance(file) for file in files)
    first = instances[0]
    series = Series(first.series_instance_uid, first.modality, instances)
    return InferenceRequest(
        request_id=first.study_instance_uid[-32:],
        model=model,
        route="chest-ct",
        priority=Priority.ROUTINE,
        study=Study(
            key=StudyKey(first.study_instance_uid, 1),
            patient=first.patient,
            accession_number=first.accession_number,
            issuer_of_accession_number=first.issuer_of_accession_number,
            study_date=first.attributes.get("study_date", ""),
            study_time=first.attributes.get("study_time", ""),
            study_description=first.attributes.get("study_description", ""),
            study_id=first.attributes.get("study_id", ""),
            referring_physician_name="",
            series=(series,),
            completeness=Completeness(
                complete=True, evidence=None, received=len(instances), expected=None
            ),
            received_at=datetime.now(UTC),
        ),
        inputs=(ImagingInput(InputRole.CURRENT, (series,)),),
        reasons=("bench",),
    )


def _instance(file: bytes) -> Instance:
    transfer_syntax_uid, data_set = split_part10(file)
    return instance_from_header(
        scan_header(data_set, transfer_syntax_uid),
        sha256=hashlib.sha256(data_set).hexdigest(),
        location=Location("", 0, len(file)),
    )


def _result(
    request: InferenceRequest,
    package: ModelPackage,
    volume: Volume,
    data: Data,
    outputs: Mapping[str, Any],
) -> InferenceResult:
    card, uids = package.card, volume.sop_instance_uids
    evidence = tuple(Evidence(uid) for uid in uids)
    subject = Subject(card.id, request.study.study_instance_uid, evidence)
    found = findings_of(card, outputs, subject)
    assert found.outcome is Outcome.ASSESSED, found.reasons
    spec = card.output.region
    assert spec is not None
    labels = source_labels(spec, outputs[spec.output], data)
    rows, columns = volume.stored_values.shape[-2:]
    return InferenceResult(
        request_id=request.request_id,
        model=request.model,
        identity=request.study.identity,
        outcome=found.outcome,
        findings=found.findings,
        region=Region(
            sop_instance_uids=uids,
            rows=rows,
            columns=columns,
            labels=labels.astype("uint8", copy=False).tobytes(),
            segments=segments_of(spec, subject),
            includes=includes_of(spec),
        ),
    )
