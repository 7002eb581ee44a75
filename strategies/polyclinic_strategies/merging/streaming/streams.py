"""Models read and written tensor by tensor.

However large a model is, this needs no more memory than its largest tensor.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from polyclinic.errors import ModelInvalid
from polyclinic.system.durable import replacing
from polyclinic.system.text import first_line

# safetensors' name of each type; its files are ordered from the last type to the first, then by
# name
TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
_RANK = {dtype: rank for rank, dtype in enumerate(TYPES)}
Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class StoredState(Mapping[str, Tensor]):
    """Tensors of a safetensors file, read when asked for; a context manager.

    Raises:
        ModelInvalid: The file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            opened: Any = safe_open
            self._file = opened(path, framework="pt")
            self._names = dict.fromkeys(self._file.keys())
            self.metadata: dict[str, str] = dict(self._file.metadata() or {})
        except (OSError, SafetensorError) as error:
            raise ModelInvalid(
                f"{path}: not a readable safetensors file ({first_line(error)})."
            ) from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor = self._file.get_tensor(name)
        assert isinstance(tensor, Tensor)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__(None, None, None)

    def layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return types and shapes, without reading the tensors' contents."""
        found = {}
        for name in self._names:
            part = self._file.get_slice(name)
            dtype = next(dtype for dtype, code in TYPES.items() if code == part.get_dtype())
            found[name] = (dtype, tuple(part.get_shape()))
        return found


def file_order(layout: Layout) -> list[str]:
    """Return the names in the order in which safetensors writes them."""
    return sorted(layout, key=lambda name: (-_RANK[layout[name][0]], name))


def write_stream(
    path: Path, layout: Layout, tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file from tensors that come one after another, whole or not at all.

    The bytes are the same as those of `save_state`.

    Args:
        path: File to write.
        layout: Types and shapes of all tensors.
        tensors: Name and tensor, in `file_order(layout)`.
        metadata: At most one key, so that the bytes follow from the contents.

    Raises:
        DiskFull: No room.
    """
    header, length = _header(layout, metadata)
    with replacing(path, needed_bytes=length) as unfinished, unfinished.open("wb") as file:
        file.write(header)
        for name, tensor in tensors:
            assert layout[name] == (tensor.dtype, tuple(tensor.shape)), f"{name}: another layout"
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)
        assert file.tell() == length, "tensors are missing"


def _header(layout: Layout, metadata: Mapping[str, str]) -> tuple[bytes, int]:
    """Return the file's beginning, and the length of the whole file."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name in file_order(layout):
        dtype, shape = layout[name]
        end = start + torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {"dtype": TYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + start
