"""Voxels of one file, as the file stores them: decoded frame by frame, within what was claimed.

pydicom's plug-ins decode: itself (native, RLE), pylibjpeg-openjpeg (JPEG 2000, HTJ2K), pyjpegls
(JPEG-LS), python-gdcm and Pillow (JPEG). What a file claims is checked before anything is decoded:
against the limit, against the bytes that are there, and against the size that stands in every
compressed frame itself, by which decoders reserve memory.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import iter_pixels
from pydicom.tag import Tag

from polyclinic_client.dicom.reading.elements import MOST_FRAMES, Malformed, damage_named, whole
from polyclinic_client.dicom.reading.instances import LARGEST_SIDE, check_inflated

# One for each transfer syntax: pydicom would try all others on what the first finds damaged
DECODERS = {
    **dict.fromkeys(uid.JPEGTransferSyntaxes, "gdcm"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "pyjpegls"),
    **dict.fromkeys(uid.JPEG2000TransferSyntaxes, "pylibjpeg"),
    uid.RLELossless: "pydicom",
}
KEYWORDS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "SOPClassUID"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
TAGS = [*map(Tag, KEYWORDS)]
LIMIT_BYTES = 2 * 2**30
SMALL_BYTES = 2**26  # a claim that needs no comparison with the bytes that are there
RATIO = 1000  # of what a compressed file claims to its bytes, beyond that
JPEG_2000 = b"\xff\x4f\xff\x51"  # SOC, SIZ
SIGN_AT = 42  # the byte of SIZ whose highest bit says whether values have a sign
JPEG_SIZES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
STAND_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a length


def read_planes(path: Path, wanted: list[int] | None = None) -> Iterator[NDArray[Any]]:
    """Decode the frames of a file, one after another.

    Args:
        path: The file.
        wanted: Numbers of the frames, from 0; all if None.

    Yields:
        Shape (rows, columns), whole numbers, not yet scaled.

    Raises:
        DicomUnreadable: The file claims too much, is truncated, or cannot be decoded.
    """
    with damage_named(path, "its pixels"):
        content = read_stored(path)
        rows, columns, count = check_claim(content, path.stat().st_size)
        if any(not 0 <= number < count for number in wanted or ()):
            raise Malformed("it lacks a frame")
        found = 0
        decoder = DECODERS.get(content.file_meta.TransferSyntaxUID, "")
        for plane in iter_pixels(content, indices=wanted, raw=True, decoding_plugin=decoder):
            if plane.shape != (rows, columns) or plane.dtype.kind not in "iu":
                raise Malformed("its pixels are not as its header says")
            found += 1
            yield plane
        if found != (count if wanted is None else len(wanted)):
            raise Malformed("it holds fewer frames than it claims")


def read_stored(path: Path) -> FileDataset:
    """Read pixels as they are stored, and what says how; the caller names its damage."""
    check_inflated(path)
    content = dcmread(path, force=True, specific_tags=TAGS)
    if "TransferSyntaxUID" not in content.file_meta:  # a file without its preamble
        implicit, little = content.original_encoding
        plain = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        content.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else plain
    return content


def check_claim(content: FileDataset, size: int) -> tuple[int, int, int]:
    """Check what a file claims before its pixels are decoded.

    Args:
        content: The whole object.
        size: Bytes of its file.

    Returns:
        Rows, columns and number of frames.

    Raises:
        Malformed: It claims more than the limit, or than its bytes can hold.
    """
    rows = whole(content, "Rows", 1, LARGEST_SIDE)
    columns = whole(content, "Columns", 1, LARGEST_SIDE)
    count = whole(content, "NumberOfFrames", 1, MOST_FRAMES, default=1)
    bits = whole(content, "BitsAllocated", 1, 64)
    claimed = rows * columns * count * bits // 8
    if claimed > LIMIT_BYTES:
        raise Malformed(f"it claims {claimed / 2**30:.1f} GiB of pixels")
    if "PixelData" not in content:
        raise Malformed("it has no pixels")
    syntax = uid.UID(content.file_meta.TransferSyntaxUID)
    if not syntax.is_encapsulated:
        if len(content.PixelData) < claimed:
            raise Malformed("it is truncated: it holds fewer pixels than its header claims")
        return rows, columns, count
    if claimed > SMALL_BYTES and claimed > RATIO * size:
        raise Malformed(
            f"it claims {claimed / 2**20:,.0f} MiB of pixels in {size / 2**20:,.1f} MiB"
        )
    for number, frame in enumerate(generate_frames(content.PixelData, number_of_frames=count)):
        if number >= count:
            break
        stated = stated_size(frame)
        if stated is not None and stated != (rows, columns):
            raise Malformed("a compressed frame has another size than its header says")
        if frame[:4] == JPEG_2000 and len(frame) > SIGN_AT:
            signed = frame[SIGN_AT] >> 7
            if signed != whole(content, "PixelRepresentation", 0, 1, default=0):
                raise Malformed("a compressed frame and its header disagree on the sign")
    return rows, columns, count


def stated_size(frame: bytes) -> tuple[int, int] | None:
    """Read the rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream states.

    Returns:
        Rows and columns; None for a stream of another kind, or without a size.
    """
    if frame[:4] == JPEG_2000 and len(frame) >= 24:
        right, below, left, above = struct.unpack(">4I", frame[8:24])
        return below - above, right - left
    place = 2
    if frame[:2] != b"\xff\xd8":
        return None
    while place + 9 <= len(frame):
        if frame[place] != 0xFF:
            return None
        marker = frame[place + 1]
        if marker in JPEG_SIZES:
            found: tuple[int, int] = struct.unpack(">2H", frame[place + 5 : place + 9])
            return found
        if marker in STAND_ALONE or marker == 0xFF:
            place += 1 if marker == 0xFF else 2
            continue
        place += 2 + int(np.frombuffer(frame[place + 2 : place + 4], ">u2")[0])
    return None
