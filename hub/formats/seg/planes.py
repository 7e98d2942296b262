"""The planes that a segmentation or a parametric map was made on, and how its frames refer to
them (PS3.3 C.7.6.16.2.6, C.7.6.17, C.12.2)."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from hub.domain.coding import Code
from hub.domain.finding import FramePlace, ParametricMap, Region
from hub.domain.identity import derived_uid
from hub.domain.inference import InferenceRequest
from hub.domain.study import Instance
from hub.errors import IntegrityError, RejectedError
from hub.formats.dicom import writer as write
from hub.formats.dicom_objects.source_dataset import LOSSY_METHODS, compression_ratio
from hub.formats.seg.geometry import Geometry
from hub.formats.sr.content import referenced_sop

SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")

Dimension = tuple[int, int, str]
"""Tag of an index, tag of the functional group that holds it, what it is called."""

IMAGE_POSITION_PATIENT: Dimension = (0x00200032, 0x00209113, "Image Position Patient")
FRAME_LABEL: Dimension = (0x00209453, 0x00209111, "Frame Label")


@dataclass(frozen=True, slots=True)
class Plane:
    """What one plane was made on."""

    image: Instance
    """With the geometry of the frame, where it is one of several."""
    frame_number: int | None


def source_planes(request: InferenceRequest, drawn: Region | ParametricMap) -> tuple[Plane, ...]:
    """The plane behind each of ``drawn``, in its order.

    Raises:
        IntegrityError: it does not have the size of its images, or lies on no frame of theirs.
        RejectedError: it does not say which frames of a multi-frame image it lies on.
    """
    by_uid = {instance.sop_instance_uid: instance for instance in request.study.instances}
    images = [by_uid[uid] for uid in drawn.sop_instance_uids]
    if any((image.rows, image.columns) != (drawn.rows, drawn.columns) for image in images):
        raise IntegrityError("the region does not have the rows and columns of its images")
    if not drawn.frames:
        if any(image.frames != 1 for image in images):
            raise RejectedError("the region does not name the frames of a multi-frame image")
        return tuple(Plane(image, None) for image in images)
    return tuple(map(_plane, images, drawn.frames))


def _plane(image: Instance, frame: FramePlace) -> Plane:
    if not image.is_multi_frame:
        return Plane(image, None)
    if not 1 <= frame.number <= image.frames:
        raise IntegrityError("the region lies on a frame that its image does not have")
    placed = replace(
        image,
        image_position_patient=frame.image_position_patient,
        image_orientation_patient=frame.image_orientation_patient,
        pixel_spacing=frame.pixel_spacing,
        slice_thickness=frame.slice_thickness,
    )
    return Plane(placed, frame.number)


def derivation(plane: Plane, how: Code) -> bytes:
    """(0008,9124) Derivation Image Sequence: the image, or its frame, that a frame came from."""
    numbers = () if plane.frame_number is None else (plane.frame_number,)
    source = (
        referenced_sop(plane.image.sop_class_uid, plane.image.sop_instance_uid, frames=numbers)
        + write.text(0x0028135A, "CS", "YES")
        + write.code(0x0040A170, SOURCE_IMAGE)
    )
    derived = write.sequence(0x00082112, [source]) + write.code(0x00089215, how)
    return write.sequence(0x00089124, [derived])


def referenced_series(images: Many[Instance]) -> bytes:
    """(0008,1115) of the Common Instance Reference module (PS3.3 C.12.2)."""
    by_series: dict[str, list[bytes]] = {}
    for image in {image.sop_instance_uid: image for image in images}.values():
        reference = referenced_sop(image.sop_class_uid, image.sop_instance_uid)
        by_series.setdefault(image.series_instance_uid, []).append(reference)
    return write.sequence(
        0x00081115,
        (
            write.sequence(0x0008114A, items) + write.text(0x0020000E, "UI", uid)
            for uid, items in by_series.items()
        ),
    )


def add_compression(header: Dataset, images: Many[Instance]) -> None:
    """What is derived from images that lost information says so (PS3.3 C.7.6.1.1.5)."""
    lossy = next((i for i in images if i.transfer_syntax_uid in LOSSY_METHODS), None)
    header.LossyImageCompression = "00" if lossy is None else "01"
    if lossy is not None:
        header.LossyImageCompressionRatio = compression_ratio(lossy)
        header.LossyImageCompressionMethod = LOSSY_METHODS[lossy.transfer_syntax_uid]


def add_dimensions(header: Dataset, geometry: Geometry, others: Many[Dimension]) -> None:
    """Multi-frame Dimension and Frame of Reference modules (PS3.3 C.7.6.17, C.7.4.1): ``others``,
    then the place along the normal, where the images have a place in space."""
    pointers = list(others)
    if geometry.frame_of_reference_uid:
        pointers.append(IMAGE_POSITION_PATIENT)
        header.FrameOfReferenceUID = geometry.frame_of_reference_uid
        header.PositionReferenceIndicator = ""
    else:
        header.PatientOrientation = None  # unknown (PS3.3 C.7.6.1.1.1)
    organization_uid = derived_uid("dimensions", header.SOPInstanceUID)
    organization = Dataset()
    organization.DimensionOrganizationUID = organization_uid
    header.DimensionOrganizationSequence = Sequence([organization])
    indices = []
    for pointer, group, label in pointers:
        index = Dataset()
        index.DimensionOrganizationUID = organization_uid
        index.DimensionIndexPointer = Tag(pointer)
        index.FunctionalGroupPointer = Tag(group)
        index.DimensionDescriptionLabel = label
        indices.append(index)
    header.DimensionIndexSequence = Sequence(indices)
