"""A result as a page for people: a PDF file, and the same page as a DICOM Encapsulated PDF
(PS3.3 A.45.1) for archives and viewers."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.formats.dicom import writer as write
from hub.formats.dicom_objects.modules import (
    COMPREHENSIVE_3D_SR_STORAGE,
    ENCAPSULATED_PDF_STORAGE,
    SEGMENTATION_STORAGE,
    code_dataset,
    dicom_document,
    local_time,
    object_header,
)
from hub.formats.encoding import EncodingContext, check_document_identity, document_uuid
from hub.formats.printed.page import render
from hub.formats.seg.labelmap import LABEL_MAP_SEGMENTATION_STORAGE
from hub.formats.seg.parametric_map import PARAMETRIC_MAP_STORAGE
from hub.formats.sr.content import referenced_sop

_REFERENCED = {
    DocumentKind.SR: COMPREHENSIVE_3D_SR_STORAGE,
    DocumentKind.SR_3D: COMPREHENSIVE_3D_SR_STORAGE,
    DocumentKind.SEG: SEGMENTATION_STORAGE,
    DocumentKind.SEG_FRACTIONAL: SEGMENTATION_STORAGE,
    DocumentKind.SEG_LABELMAP: LABEL_MAP_SEGMENTATION_STORAGE,
    DocumentKind.PARAMETRIC_MAP: PARAMETRIC_MAP_STORAGE,
}


def encode(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document:
    """Encode a result of any outcome; names the SR and SEG in ``related``.

    One page; a result with very many findings goes on to further pages, marked like the
    first, rather than leave anything out.

    Raises:
        IntegrityError: the result does not belong to the request.
    """
    check_document_identity(request, result)
    named = {kind: related[kind] for kind in _REFERENCED if kind in related}
    content = render(
        request, result, card, context, made_at=local_time(request, context), related=named
    )
    return Document(
        document_id=document_uuid(DocumentKind.PDF, request, context),
        kind=DocumentKind.PDF,
        request_id=request.request_id,
        identity=request.study.identity,
        content=content,
        related_uids=tuple(document.document_id for document in named.values()),
    )


def encode_dicom(
    request: InferenceRequest,
    result: InferenceResult,
    card: ModelCard,
    context: EncodingContext,
    related: Mapping[DocumentKind, Document],
) -> Document:
    """Wrap the PDF in ``related``, or one made now when there is none.

    Raises:
        IntegrityError: the result does not belong to the request.
    """
    check_document_identity(request, result)
    pdf = related.get(DocumentKind.PDF) or encode(request, result, card, context, related)
    header = object_header(
        DocumentKind.ENCAPSULATED_PDF,
        ENCAPSULATED_PDF_STORAGE,
        "DOC",
        request=request,
        card=card,
        context=context,
        result=result,
    )
    _add_document_modules(header, card, context, len(pdf.content))
    header.DocumentTitle = header.SeriesDescription
    bulk: write.Bulk = {
        0x00420011: write.large_element(0x00420011, [pdf.content]),
        0x00420013: _source_instances(request, related),
    }
    named = tuple(related[kind].document_id for kind in _REFERENCED if kind in related)
    return dicom_document(DocumentKind.ENCAPSULATED_PDF, request, header, bulk, named)


def _add_document_modules(
    header: Dataset, card: ModelCard, context: EncodingContext, length: int
) -> None:
    """SC Equipment and Encapsulated Document modules (PS3.3 C.8.6.1, C.24.2). The module has no
    place for the verifier nor for a predecessor: both stand on the page."""
    header.ConversionType = "WSD"
    header.AcquisitionDateTime = ""
    header.BurnedInAnnotation = "YES"
    header.ConceptNameCodeSequence = Sequence([code_dataset(card.procedure.report_code)])
    header.VerificationFlag = "UNVERIFIED" if context.report.verifier is None else "VERIFIED"
    header.MIMETypeOfEncapsulatedDocument = "application/pdf"
    header.EncapsulatedDocumentLength = length


def _source_instances(request: InferenceRequest, related: Mapping[DocumentKind, Document]) -> bytes:
    """(0042,0013): what the model was given, and the objects that hold the same result."""
    instances = (instance for series in request.series for instance in series.instances)
    items = [referenced_sop(i.sop_class_uid, i.sop_instance_uid) for i in instances]
    items += [
        referenced_sop(sop_class_uid, related[kind].document_id)
        for kind, sop_class_uid in _REFERENCED.items()
        if kind in related
    ]
    return write.sequence(0x00420013, items)
