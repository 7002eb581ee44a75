"""What a file claims is compared with what it holds before memory is reserved."""

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from polyclinic_client.dicom.errors import DicomUnreadable, SeriesRefused
from polyclinic_client.dicom.reading import instances
from polyclinic_client.dicom.reading.instances import read_instance
from polyclinic_client.dicom.reading.pixels import read_planes, stated_size
from polyclinic_client.dicom.reading.series import make_series
from polyclinic_client.dicom.reading.volumes import read_volume
from tests.client.dicom.simulated import Phantom, make_enhanced, make_slices, write_one

MEBI = 2**20


def claiming(rows: int, columns: int, frames: int, pixels: bytes, syntax: str, path: Path) -> Path:
    """Write an enhanced object that claims so many voxels and holds these bytes."""
    image = make_enhanced(Phantom(shape=(12, 10, frames)), EnhancedMRImageStorage)
    image.Rows, image.Columns = rows, columns
    image.PixelData = pixels
    image["PixelData"].VR = "OW" if syntax == ExplicitVRLittleEndian else "OB"
    return write_one(path, image, syntax)


@pytest.mark.parametrize("frames", [8, 64])
@pytest.mark.parametrize("compressed", [False, True])
def test_2_gb_claimed_in_a_file_of_1_mb(frames: int, compressed: bool, tmp_path: Path) -> None:
    content = b"\x7f" * MEBI
    side = 11_500 if frames == 8 else 4_000  # 2 GB in 16 bits
    syntax = RLELossless if compressed else ExplicitVRLittleEndian
    if compressed:
        content = encapsulate([content[: MEBI // frames]] * frames)
    path = claiming(side, side, frames, content, syntax, tmp_path / "a.dcm")
    assert path.stat().st_size < 1.2 * MEBI
    tracemalloc.start()
    with pytest.raises((DicomUnreadable, SeriesRefused), match=r"claim|more than fit|truncated"):
        read_volume(make_series([read_instance(path)]), "series")
    with pytest.raises(DicomUnreadable, match=r"claims|truncated"):
        list(read_planes(path))
    assert tracemalloc.get_traced_memory()[1] < 16 * MEBI
    tracemalloc.stop()


def test_a_compressed_frame_that_states_another_size(tmp_path: Path) -> None:
    (image, *_) = make_slices(Phantom(shape=(32, 32, 1)))
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pixels = Phantom(shape=(32, 32, 1)).pixels(0)
    compress(image, JPEG2000Lossless, pixels, generate_instance_uid=False)
    place = image.PixelData.index(b"\xff\x4f\xff\x51") + 8
    large = struct.pack(">2I", 60_000, 60_000)
    image.PixelData = image.PixelData[:place] + large + image.PixelData[place + 8 :]
    path = write_one(tmp_path / "a.dcm", image, JPEG2000Lossless)
    with pytest.raises(DicomUnreadable, match="another size"):
        list(read_planes(path))


def test_sizes_that_streams_state() -> None:
    baseline = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x0b\x08\x00\x20\x00\x30" + bytes(20)
    assert stated_size(baseline) == (32, 48)
    assert stated_size(b"\xff\xd8\xff") is None and stated_size(b"") is None
    assert stated_size(b"no image at all, but long enough") is None
    assert stated_size(b"\xff\xd8" + b"\xff" * 40) is None


def test_a_deflated_file_that_inflates_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "MOST_INFLATED", MEBI)
    path = write_one(tmp_path / "a.dcm", make_slices(Phantom())[0], DeflatedExplicitVRLittleEndian)
    assert read_instance(path).frames
    content = path.read_bytes()
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packing.compress(bytes(8 * MEBI)) + packing.flush()
    length = struct.unpack("<I", content[140:144])[0]
    path.write_bytes(content[: 144 + length] + packed)
    with pytest.raises(DicomUnreadable, match="inflates to more"):
        read_instance(path)


def test_values_are_exact_where_they_are_whole(tmp_path: Path) -> None:
    def wide(one: Dataset, plane: int) -> None:
        one.BitsAllocated = one.BitsStored = 32
        one.HighBit = 31
        one.RescaleSlope, one.RescaleIntercept = 1, 0
        one.PixelData = np.full((12, 10), 2**24 + 1 + plane, np.int32).tobytes()

    images = make_slices(Phantom(), change=wide)
    files = [write_one(tmp_path / f"{n}.dcm", one) for n, one in enumerate(images)]
    volume = read_volume(make_series([read_instance(file) for file in files]), "series")
    assert volume.voxels[0, 0].tolist() == [2**24 + 1 + plane for plane in range(6)]
