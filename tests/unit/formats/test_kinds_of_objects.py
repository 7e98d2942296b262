"""What routes can tell objects apart by that are no CT: reports, SEG, PDF, radiographs, ECG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from hub.domain.delivery import DocumentKind
from hub.domain.model_input import WaveformInput
from hub.domain.routing import series_variables
from hub.domain.study import Instance, Location, Series
from hub.errors import RejectedError, UnsuitableError
from hub.formats.dicom.header import instance_from_header, scan_header
from hub.formats.dicom.part10 import split_part10
from hub.formats.images.waveform import Waveform, read_waveform
from tests import builders
from tests.unit.formats.encoded import all_documents
from tests.unit.imaging import ct_slice, file_bytes


def indexed(file: bytes) -> Instance:
    syntax, data_set = split_part10(file)
    location = Location("segment", 0, len(file))
    return instance_from_header(scan_header(data_set, syntax), sha256="", location=location)


def routed(file: bytes) -> Any:
    """What a rule sees of a series of one object."""
    instance = indexed(file)
    return series_variables(Series("1", instance.modality, (instance,)))


@pytest.fixture(scope="module")
def documents() -> Any:
    request = builders.request_for(builders.chest_ct_study(2))
    return all_documents(request, builders.assessed(request))


def test_a_report_is_told_by_its_title_and_flags(documents: Any) -> None:
    seen = routed(documents[DocumentKind.SR].content)
    assert seen["concept_name_code"] == "ai-result"
    assert seen["concept_name"] == "AI result"
    assert (seen["completion_flag"], seen["verification_flag"]) == ("COMPLETE", "UNVERIFIED")
    other = routed(Path(str(get_testdata_file("test-SR.dcm"))).read_bytes())
    assert other["concept_name"]
    assert other["concept_name"] != seen["concept_name"]


def test_a_segmentation_is_told_by_its_label(documents: Any) -> None:
    seen = routed(documents[DocumentKind.SEG].content)
    assert (seen["modality"], seen["content_label"]) == ("SEG", "AI_SEGMENTATION")
    assert seen["number_of_frames"] > 1


def test_an_encapsulated_pdf_is_told_by_its_title(documents: Any) -> None:
    content = documents[DocumentKind.ENCAPSULATED_PDF].content
    seen = routed(content)
    assert seen["sop_class_uid"] == "1.2.840.10008.5.1.4.1.1.104.1"
    assert seen["document_title"] == str(pydicom.dcmread(io.BytesIO(content)).DocumentTitle)
    assert seen["document_title"]


def test_a_radiograph_is_told_by_view_side_and_purpose() -> None:
    seen = routed(
        ct_slice(
            0,
            ViewPosition="AP",
            ImageLaterality="L",
            PresentationIntentType="FOR PROCESSING",
            ConversionType="DF",
            PhotometricInterpretation="MONOCHROME1",
        )
    )
    assert seen["view_position"] == "AP"
    assert seen["image_laterality"] == "L"
    assert seen["presentation_intent_type"] == "FOR PROCESSING"
    assert seen["photometric_interpretation"] == "MONOCHROME1"


def test_a_broken_title_of_a_report_costs_the_title_only() -> None:
    whole = Path(str(get_testdata_file("test-SR.dcm"))).read_bytes()
    at = whole.index(b"\x40\x00\x43\xa0SQ") + 12
    broken = whole[: at + 14] + b"\xff\xff" + whole[at + 16 :]
    found = indexed(broken)
    assert "concept_name" not in found.attributes
    assert found.warnings == ("(0040,A043) cannot be read",)
    assert found.attributes["completion_flag"] == "COMPLETE"


# --- every ECG storage class -------------------------------------------------------------

ECG_CLASSES = {
    "12-lead": "1.2.840.10008.5.1.4.1.1.9.1.1",
    "general": "1.2.840.10008.5.1.4.1.1.9.1.2",
    "ambulatory": "1.2.840.10008.5.1.4.1.1.9.1.3",
    "general 32-bit": "1.2.840.10008.5.1.4.1.1.9.1.4",
}
MOST_LEADS = {"12-lead": 12, "general": 8, "ambulatory": 2, "general 32-bit": 8}


def ecg(kind: str) -> bytes:
    """The 12-lead ECG that pydicom ships, as another class would store it."""
    data_set = pydicom.dcmread(Path(str(get_testdata_file("waveform_ecg.dcm"))))
    data_set.SOPClassUID = ECG_CLASSES[kind]
    [group] = data_set.WaveformSequence = data_set.WaveformSequence[:1]
    leads = MOST_LEADS[kind]
    wide = kind == "general 32-bit"
    samples = np.frombuffer(group.WaveformData, "<i2").reshape(-1, 12)[:, :leads]
    group.ChannelDefinitionSequence = group.ChannelDefinitionSequence[:leads]
    group.NumberOfWaveformChannels = leads
    group.WaveformSampleInterpretation = "SL" if wide else "SS"
    group.WaveformBitsAllocated = 32 if wide else 16
    group.WaveformData = samples.astype("<i4" if wide else "<i2").tobytes()
    group["WaveformData"].VR = "OW"
    return file_bytes(data_set)


def wave(kind: str) -> Waveform:
    return read_waveform(ecg(kind))


@pytest.mark.parametrize("kind", ECG_CLASSES)
def test_every_class_of_ecg_gives_the_same_millivolts(kind: str) -> None:
    found = wave(kind)
    file = Path(str(get_testdata_file("waveform_ecg.dcm")))
    reference = pydicom.dcmread(file).waveform_array(0).T / 1000  # the file is in microvolt
    assert found.millivolts == pytest.approx(reference[: MOST_LEADS[kind]], abs=1e-5)
    assert found.frequency_hz == 1000
    assert found.seconds == 10
    assert routed(ecg(kind))["sop_class_uid"] == ECG_CLASSES[kind]
    assert WaveformInput(kind="waveform").minimum_seconds == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"NumberOfWaveformSamples": 2**32 - 1}, "does not hold the samples"),
        ({"NumberOfWaveformChannels": 60000}, "contradicts the channel list"),
        ({"SamplingFrequency": 0}, "SamplingFrequency"),
        ({"SamplingFrequency": 1e9}, "SamplingFrequency"),
    ],
)
def test_a_waveform_that_claims_what_it_cannot_hold_is_refused(
    changes: dict[str, Any], said: str
) -> None:
    data_set = pydicom.dcmread(io.BytesIO(ecg("ambulatory")))
    for keyword, value in changes.items():
        setattr(data_set.WaveformSequence[0], keyword, value)
    with pytest.raises(RejectedError, match=said):
        read_waveform(file_bytes(data_set))


def test_compressed_speech_codings_of_samples_are_refused_by_name() -> None:
    data_set = pydicom.dcmread(io.BytesIO(ecg("general")))
    data_set.WaveformSequence[0].WaveformSampleInterpretation = "MB"
    with pytest.raises(UnsuitableError, match="samples of type MB"):
        read_waveform(file_bytes(data_set))
