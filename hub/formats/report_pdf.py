"""A result as a page for people, as a PDF file."""

from __future__ import annotations

from collections.abc import Mapping

from hub.domain.delivery import Document, DocumentKind
from hub.domain.inference import InferenceRequest, InferenceResult
from hub.domain.model_card import ModelCard
from hub.formats.dicom_object import local_time
from hub.formats.encoding import EncodingContext, check_document_identity, document_uuid
from hub.formats.report_page import render

_REFERENCED = (DocumentKind.SR, DocumentKind.SEG)


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
        document_id=document_uuid(DocumentKind.PDF, request),
        kind=DocumentKind.PDF,
        request_id=request.request_id,
        identity=request.study.identity,
        content=content,
        related_uids=tuple(document.document_id for document in named.values()),
    )
