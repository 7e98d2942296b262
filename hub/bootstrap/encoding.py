"""The encoders of all documents, and what they know of the institution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version

from hub.bootstrap.hub import Hub
from hub.domain.delivery import DocumentKind
from hub.formats.encoding import BusinessIdentifier, Encoder, EncodingContext
from hub.ports import ImageRenderer, at_first_call

ENCODERS: Mapping[DocumentKind, Encoder] = {
    DocumentKind.PDF: at_first_call("hub.formats.printed.pdf:encode"),
    DocumentKind.SEG: at_first_call("hub.formats.seg.binary:encode"),
    DocumentKind.SEG_FRACTIONAL: at_first_call("hub.formats.seg.fractional:encode"),
    DocumentKind.SEG_LABELMAP: at_first_call("hub.formats.seg.labelmap:encode"),
    DocumentKind.PARAMETRIC_MAP: at_first_call("hub.formats.seg.parametric_map:encode"),
    DocumentKind.KEY_IMAGE: at_first_call("hub.formats.dicom_objects.key_image:encode"),
    DocumentKind.SR: at_first_call("hub.formats.sr.report:encode"),
    DocumentKind.SR_3D: at_first_call("hub.formats.sr.report:encode_3d"),
    DocumentKind.PRESENTATION_STATE: at_first_call(
        "hub.formats.dicom_objects.presentation_state:encode"
    ),
    DocumentKind.KEY_OBJECTS: at_first_call("hub.formats.sr.key_objects:encode"),
    DocumentKind.REJECTION_NOTE: at_first_call("hub.formats.sr.key_objects:encode_rejection"),
    DocumentKind.ENCAPSULATED_PDF: at_first_call("hub.formats.printed.pdf:encode_dicom"),
    DocumentKind.FHIR: at_first_call("hub.formats.fhir.report:encode"),
    DocumentKind.FHIR_R5: at_first_call("hub.formats.fhir.r5:encode"),
    DocumentKind.ORU: at_first_call("hub.formats.hl7v2.report:encode"),
    DocumentKind.NOTICE: at_first_call("hub.formats.notice:encode"),
    DocumentKind.RECORD: at_first_call("hub.formats.record:encode"),
}
"""In the order in which documents refer to each other. The first call loads them: for what
destinations get the rehearsal's, as soon as the worker works."""


def encoding_context(hub: Hub, images: ImageRenderer) -> Callable[[], EncodingContext]:
    """What the encoders know of the institution; asked for at the moment of encoding."""
    site, software = hub.settings.site, version("caidx-hub")

    def now() -> EncodingContext:
        return EncodingContext(
            made_at=hub.clock.now(),
            institution_name=site.institution_name,
            organization_identifiers=tuple(
                BusinessIdentifier(i.system, i.value) for i in site.organization_identifiers
            ),
            software_version=software,
            timezone=site.zone,
            result_system=site.result_system,
            identifier_systems=site.systems_by_issuer,
            images=images,
        )

    return now
