"""Flower's arrays without their copies: over a file that is mapped, or over an array in memory.

Flower keeps an array as bytes in numpy's format. These make such bytes only for who asks for them.
"""

import math
import mmap
import os
import re
import struct
import weakref
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.lib import format as npy

from polyclinic.errors import FrameInvalid

NUMPY = "numpy.ndarray"  # the one way in which Flower serializes arrays
HEADER_BYTES = 10_000  # longest header of an array in numpy's format
_LENGTHS = {(1, 0): struct.Struct("<H"), (2, 0): struct.Struct("<I")}  # of a header, by version
# a header as numpy writes it; numpy itself reads others too, by Python's own parser
_HEADER = re.compile(
    rb"\{'descr': '([<>|][biufc]\d{1,2})', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,20}, ?)*(?:\d{1,20})?)\), \} *\n"
)


class OpenFile:
    """A file that stays open, even after its name is gone, until nobody needs it.

    Args:
        file: The file; or the number of one that is open, which is opened once more.
    """

    def __init__(self, file: Path | int) -> None:
        if isinstance(file, int):
            number = os.dup(file)
        else:
            number = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, number)
        self._number = number
        self.size = os.fstat(number).st_size

    def view(self) -> memoryview:
        """Map the file; what is written into the view stays private to it."""
        return memoryview(mmap.mmap(self._number, self.size, access=mmap.ACCESS_COPY))


class LazyArray(Array):
    """Flower's array, whose bytes in numpy's format are made when somebody asks for them."""

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The bytes in numpy's format, copied."""
        return b"".join(self.buffers())

    @property
    def size(self) -> int:
        """Number of bytes in numpy's format."""
        raise NotImplementedError

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """The array itself, to be read."""
        raise NotImplementedError

    def buffers(self) -> list[memoryview]:
        """Return the bytes in numpy's format, without copying them."""
        raise NotImplementedError

    def deflate(self) -> bytes:
        """Give Flower's own fleet a plain array: it refuses other classes."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __repr__(self) -> str:
        shown = f"dtype={self.dtype!r}, shape={self.shape!r}, size={self.size}"
        return f"{type(self).__name__}({shown})"


class MappedArray(LazyArray):
    """Flower's array over the bytes of a file; every call of `numpy` maps them anew.

    Args:
        dtype: As numpy writes it.
        shape: Of the array.
        file: Holds numpy's format, header and all.
    """

    def __init__(self, dtype: str, shape: tuple[int, ...], file: OpenFile) -> None:
        self.__dict__["_file"] = file
        self.dtype, self.shape, self.stype = dtype, shape, NUMPY

    @property
    def size(self) -> int:
        """Number of bytes of the file."""
        return self._opened.size

    @property
    def _opened(self) -> OpenFile:
        file = self.__dict__["_file"]
        assert isinstance(file, OpenFile)
        return file

    def view(self) -> memoryview:
        """Map the bytes of the file."""
        return self._opened.view()

    def buffers(self) -> list[memoryview]:
        """Map the bytes of the file."""
        return [self.view()]

    def numpy(self) -> np.ndarray[Any, Any]:
        """Map the array; it may be written to, which changes neither file nor other callers'."""
        view = self.view()
        dtype, shape, fortran, offset = read_header(view)
        flat = np.frombuffer(view, dtype=dtype, offset=offset)
        return flat.reshape(shape, order="F" if fortran else "C")

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """Map the array."""
        return self.numpy()


class BufferArray(LazyArray):
    """Flower's array over an array in memory, which must not change any more.

    Args:
        values: The array; copied only if it is not contiguous.
    """

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.__dict__["_values"] = np.asarray(values, order="C")
        self.dtype, self.shape, self.stype = str(values.dtype), values.shape, NUMPY

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """The array itself, to be read."""
        found = self.__dict__["_values"].view()
        assert isinstance(found, np.ndarray)
        found.flags.writeable = False
        return found

    @property
    def size(self) -> int:
        """Number of bytes in numpy's format."""
        return len(write_header(self.values)) + self.values.nbytes

    def buffers(self) -> list[memoryview]:
        """Return a header, and the array's own bytes."""
        header = memoryview(write_header(self.values))
        return [header, self.values.reshape(-1).data.cast("B")] if self.values.size else [header]

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return a copy of the array, as Flower's arrays do."""
        return self.values.copy()


def array_bytes(array: Array) -> int:
    """Return the number of bytes of an array as it travels, without reading them."""
    return array.size if isinstance(array, LazyArray) else len(array.data)


def array_buffers(array: Array) -> list[memoryview]:
    """Return the bytes of an array as they travel, without copying them."""
    return array.buffers() if isinstance(array, LazyArray) else [memoryview(array.data)]


def array_values(array: Array) -> np.ndarray[Any, Any]:
    """Return what an array holds, to be read: copied for Flower's own arrays alone."""
    return array.values if isinstance(array, LazyArray) else array.numpy()


def write_header(values: np.ndarray[Any, Any]) -> bytes:
    """Return what comes before an array's own bytes in numpy's format."""
    header = BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(values))
    return header.getvalue()


def read_header(view: memoryview) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Read numpy's header: type, shape, whether it is in Fortran's order, and where data begins.

    Raises:
        ValueError: Not an array of numbers in numpy's format, or not all of it, or more than it.
    """
    start = bytes(view[: npy.MAGIC_LEN + 4 + HEADER_BYTES])
    version = npy.read_magic(BytesIO(start))
    if version not in _LENGTHS:
        raise ValueError(f"version {version} of numpy's format")
    size, place = _LENGTHS[version], npy.MAGIC_LEN + _LENGTHS[version].size
    if len(start) < place:
        raise ValueError("a header that is cut")
    offset = place + size.unpack_from(start, npy.MAGIC_LEN)[0]
    found = _HEADER.fullmatch(start[place:offset]) if offset <= len(start) else None
    if found is None:
        raise ValueError("a header that numpy does not write for numbers")
    shape = tuple(int(length) for length in found[3].split(b",") if length.strip())
    dtype = np.dtype(found[1].decode())
    if offset + math.prod(shape) * dtype.itemsize != len(view):
        raise ValueError(f"{len(view)} bytes for shape {shape} of {dtype}")
    return dtype, shape, found[2] == b"True", offset


def check_array(dtype: str, shape: tuple[int, ...], view: memoryview) -> None:
    """Compare what is said of an array with what its bytes hold.

    Raises:
        FrameInvalid: They differ, or the bytes are no array.
    """
    try:
        found, found_shape, _, _ = read_header(view)
    except (ValueError, TypeError) as error:  # the latter for a type that numpy does not know
        raise FrameInvalid(f"an array is damaged ({error})") from error
    if (str(found), found_shape) != (dtype, shape):
        raise FrameInvalid(
            f"an array is announced as {dtype[:20]} {shape}, and is {found} {found_shape}"
        )
