"""PNG and JPEG files: their size checked, then their pixels, upright.

Nothing else opens such a file as an image of a patient. Pixels of 16 bits of grey are kept as they
are.
"""

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from polyclinic.errors import ImageTooLarge
from polyclinic.imaging.headers import LIMIT_BYTES, Header, check_size

SUFFIXES = (".png", ".jpg", ".jpeg")
# Pillow's modes that are turned into grey or RGB
CONVERTIBLE = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
PIXEL_BYTES = 24  # in memory: decoded, turned into RGB or upright, and as float32 RGB
# columns run to the patient's left, rows to the back, as on a screen
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIENTATION = 0x0112  # EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


def read_raster_header(path: Path, limit_bytes: int = LIMIT_BYTES) -> Header:
    """Read the size and type of a picture, which lies as its EXIF orientation says.

    Raises:
        ImageTooLarge: It claims more than `limit_bytes`.
        Exception: One of `MALFORMED`, for everything else that is wrong.
    """
    try:
        with _open(path) as picture:
            (columns, rows), bands = picture.size, len(picture.getbands())
            whole = np.int32 if picture.mode.startswith("I") else np.uint8
            dtype: np.dtype[Any] = np.dtype(np.float32 if picture.mode == "F" else whole)
            sideways = _orientation(picture) in SIDEWAYS
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        claimed = PIXEL_BYTES * int(pixels.group() if pixels else 0)
        raise ImageTooLarge(path, claimed, limit_bytes) from error
    claimed = columns * rows * PIXEL_BYTES
    check_size(path, claimed, limit_bytes)
    shape = (rows, columns) if sideways else (columns, rows)
    return Header(shape, AFFINE.copy(), (1.0, 1.0, 1.0), dtype, claimed, bands)


def read_pixels(path: Path, channels: int | None) -> NDArray[Any]:
    """Read pixels, upright, of shape (channels, columns, rows, 1).

    Args:
        path: The file, whose header has been checked.
        channels: 1 chooses grey and 3 RGB; None leaves the numbers as they are.

    Raises:
        Exception: One of `MALFORMED`: the file is truncated or damaged.
    """
    with _open(path) as picture:
        turn = UPRIGHT.get(_orientation(picture))
        if channels in (1, 3) and picture.mode in CONVERTIBLE:
            pixels = picture.convert("L" if channels == 1 else "RGB")
        else:
            pixels = picture
        pixels = np.asarray(pixels if turn is None else pixels.transpose(turn))
    found = pixels.reshape(*pixels.shape[:2], 1, -1).swapaxes(0, 1)
    if channels == 3 and found.shape[-1] == 1:  # 16 bits of grey
        found = np.broadcast_to(found, (*found.shape[:3], 3))
    return np.moveaxis(found, -1, 0)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a file without reading its pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked here, and of EXIF data
        with _File(path) as file, Image.open(file, formats=("PNG", "JPEG")) as picture:
            yield picture


class _File(io.BufferedReader):
    """A file that is asked for no more than it has: Python makes room for all that is asked for.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._bytes = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes, or all that are left."""
        left = max(0, self._bytes - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _orientation(picture: Any) -> int:
    """Return the EXIF orientation, 1 to 8; 1 is upright.

    A PNG's is read only if it precedes the pixels: Pillow would decode them to look for it.
    """
    if picture.format == "PNG" and "exif" not in picture.info:
        return 1
    found = picture.getexif().get(ORIENTATION, 1)
    return found if isinstance(found, int) else 1
