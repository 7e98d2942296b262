"""The DICOM statements list what the code makes, offers and understands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any, get_args

import numpy as np
import pydicom
import pytest
from pydantic import BaseModel
from pydicom.dataset import Dataset

from connectors.dicom.config import DicomDestinationConfig, DicomSourceConfig
from connectors.dicom.status import Verdict, verdict_of
from connectors.dicomweb.destination_config import DicomWebDestinationConfig
from connectors.fhir.config import FhirDestinationConfig
from hub.bootstrap.encoding import ENCODERS
from hub.domain.coding import Code
from hub.domain.delivery import DICOM_KINDS, Document, DocumentKind
from hub.domain.finding import ParametricMap
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.report import ReportCause
from hub.formats import encoding
from hub.formats.encoding import EncodingContext
from hub.formats.sr import codes as sr_codes
from tests import builders
from tests.unit.documents import section, spans, table, text_of
from tests.unit.formats.encoded import CONTEXT
from tests.unit.formats.report_states import RESULTS, version_after

DICOM = text_of("dicom-conformance.md")
CREATED = section(DICOM, "3. Created objects")
TITLE = builders.model_card().procedure.title


def everything(request: InferenceRequest) -> InferenceResult:
    """Findings that lie somewhere, a region with probabilities, and a map."""
    region = builders.lung_region(request)
    voxels = np.frombuffer(region.labels, np.uint8)
    uids = region.sop_instance_uids
    drawn = ParametricMap(
        sop_instance_uids=uids,
        rows=region.rows,
        columns=region.columns,
        values=voxels.astype("<f4").tobytes(),
        quantity=Code("112031", "DCM", "Attenuation Coefficient"),
        unit=Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
        label="Attenuation",
    )
    probabilities = np.tile(voxels, len(region.segments)).tobytes()
    sure = replace(region, probabilities=probabilities)
    return replace(builders.located(request), region=sure, maps=(drawn,))


def made(
    request: InferenceRequest, result: InferenceResult, context: EncodingContext = CONTEXT
) -> dict[DocumentKind, Document]:
    documents: dict[DocumentKind, Document] = {}
    card = builders.model_card()
    for kind, encode in ENCODERS.items():
        if kind in DICOM_KINDS:
            document = encode(request, result, card, context, documents)
            if document is not None:
                documents[kind] = document
    return documents


def header(document: Document) -> Dataset:
    return pydicom.dcmread(BytesIO(document.content), stop_before_pixels=True)


@pytest.fixture(scope="module")
def objects() -> list[tuple[DocumentKind, Dataset]]:
    """Every kind of object that the hub makes, the pictures in both forms."""
    request = builders.request_for(builders.chest_ct_study())
    result = everything(request)
    first = made(request, result)
    without_region = replace(result, region=None, maps=())
    withdrawn = made(request, without_region, version_after(first, ReportCause.RETRACTED))
    every = [*first.items(), *withdrawn.items()]
    return [(kind, header(document)) for kind, document in every]


# --- objects ------------------------------------------------------------------------------


def documented_objects() -> set[tuple[str, str, str]]:
    """Kind, SOP class and modality of each row; a row without a kind is of that above."""
    found, kind = set(), ""
    for row in table(CREATED, "kind"):
        kind = "".join(spans(row[0])) or kind
        found.add((kind, row[2], row[3]))
    return found


def test_the_sop_classes_of_all_objects_are_listed(
    objects: list[tuple[DocumentKind, Dataset]],
) -> None:
    found = {(kind.value, str(one.SOPClassUID), str(one.Modality)) for kind, one in objects}
    assert {kind for kind, _, _ in found} == {kind.value for kind in DICOM_KINDS}
    assert found == documented_objects()


def states() -> Iterator[tuple[str, Dataset]]:
    """The structured report of each outcome, and of each cause of a version."""
    request = builders.request_for(builders.chest_ct_study())
    for name, answer in RESULTS.items():
        yield name, header(made(request, answer(request))[DocumentKind.SR])
    result = builders.assessed(request)
    for cause in ReportCause:
        context = version_after({}, cause)
        yield cause.value, header(made(request, result, context)[DocumentKind.SR])


def test_flags_and_first_words_of_every_state_are_listed() -> None:
    rows = table(CREATED, "the report | SeriesDescription")
    assert {name: wrong for name, report in states() if (wrong := unlisted(report, rows))} == {}


def unlisted(report: Dataset, rows: list[list[str]]) -> str:
    """What of a structured report the table does not say; empty where it says all of it."""
    described = report.SeriesDescription.replace(TITLE, "<title>")
    flags = {"as the report", report.VerificationFlag, report.PreliminaryFlag}
    comment = sr_codes.COMMENT.code_value
    texts = (i for i in report.ContentSequence if i.ValueType == "TEXT")
    said = next(i.TextValue for i in texts if i.ConceptNameCodeSequence[0].CodeValue == comment)
    for _, descriptions, verified, preliminary, words in rows:
        begins = any(said.startswith(span.partition("...")[0]) for span in spans(words))
        if described in spans(descriptions) and begins and {verified, preliminary} <= flags:
            return ""
    return f"{described}, {report.VerificationFlag}, {report.PreliminaryFlag}, {said}"


def test_the_hubs_own_codes_are_listed() -> None:
    named = [*vars(sr_codes).values(), *vars(encoding).values()]
    flat = [*named, *encoding.PRESENCE_CODES.values(), *encoding.OUTCOME_CODES.values()]
    own = [one.code_value for one in flat if isinstance(one, Code) and one in _private(flat)]
    rows = table(section(DICOM, "4. Codes"), "code")
    assert set(own) == {span for row in rows for span in spans(" ".join(row))}


def _private(codes: list[Any]) -> list[Code]:
    return [c for c in codes if isinstance(c, Code) and c.coding_scheme_designator == "99CAIDX"]


# --- services -----------------------------------------------------------------------------


def choices(model: type[BaseModel], field: str) -> set[str]:
    """The values that a field of a configuration may have."""

    def literals(annotation: object) -> Iterator[str]:
        for inner in get_args(annotation):
            if isinstance(inner, str):
                yield inner
            else:
                yield from literals(inner)

    return set(literals(model.model_fields[field].annotation))


def test_the_services_of_a_source_are_those_that_can_be_configured() -> None:
    text = section(DICOM, "2.2 Services beside storage (SCP)")
    listed = text.partition("`services` lists")[2].partition(". What")[0]
    services = set(spans(listed))
    assert services == choices(DicomSourceConfig, "services")
    default = spans(listed.partition("(the default)")[0])
    assert set(default) == set(DicomSourceConfig.model_fields["services"].default)


@pytest.mark.parametrize(
    ("document", "heading", "config"),
    [
        ("dicom-conformance.md", "2.3 Sender (SCU)", DicomDestinationConfig),
        ("dicomweb-conformance.md", "As user agent: results (STOW-RS)", DicomWebDestinationConfig),
    ],
)
def test_the_ways_to_confirm_are_listed(
    document: str, heading: str, config: type[BaseModel]
) -> None:
    rows = table(section(text_of(document), heading), "`confirm`")
    assert {span for row in rows for span in spans(row[0])} | {"none"} == choices(config, "confirm")


def test_the_ways_to_confirm_of_a_fhir_server_are_listed() -> None:
    text = section(text_of("fhir-conformance.md"), "The exchange")
    found = set(re.findall(r"`confirm: (\w+)`", text)) | set(re.findall(r"with `(read)`", text))
    assert found == choices(FhirDestinationConfig, "confirm")


STATUS = re.compile(r"0x([0-9A-F]{4}|[0-9A-F]+x+)(?: to 0x([0-9A-F]{4}))?")


def statuses(cell: str) -> Iterator[int]:
    for first, last in STATUS.findall(cell):
        if "x" in first:
            yield int(first.replace("x", "0"), 16)
            yield int(first.replace("x", "F"), 16)
        else:
            yield from range(int(first, 16), int(last or first, 16) + 1)


def test_the_answers_to_c_store_mean_what_is_listed() -> None:
    verdicts: dict[str, set[Verdict]] = {}
    for answer, meaning in table(section(DICOM, "2.3 Sender (SCU)"), "answer to C-STORE"):
        found = {verdict_of(status) for status in statuses(answer)}
        verdicts.setdefault(meaning.partition(":")[0], set()).update(found)
    assert verdicts == {
        "taken": {Verdict.STORED, Verdict.STORED_WITH_WARNING},
        "given up": {Verdict.REFUSED},
        "tried again later": {Verdict.TRY_AGAIN},
    }
