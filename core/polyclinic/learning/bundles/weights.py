"""Weights as they lie in a file: safetensors, or PyTorch's own format without other objects."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyclinic.errors import ModelInvalid
from polyclinic.learning.state_dict import StateDict, load_state
from polyclinic.system.text import first_line

TORCH = (".pt", ".pth")
INSIDE = ("model", "state_dict", "network")  # names under which trainers keep the weights
SPARE_BYTES = 64 * 2**20
REMEDY = "Save it again as torch.save(network.state_dict(), 'model.pt')."


def load_weights(path: Path) -> StateDict:
    """Read tensors by name.

    Args:
        path: A safetensors file, or a .pt file of a state_dict.

    Raises:
        ModelInvalid: It is missing or damaged, holds other objects than tensors, or claims more
            than it holds.
    """
    if path.suffix not in TORCH:
        return load_state(path)[0]
    try:
        _check_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the version that wrote it
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelInvalid(
            f"{path}: holds objects other than tensors, which are never loaded. {REMEDY}"
        ) from error
    except _FAULTS as error:
        raise ModelInvalid(f"{path}: is no file of weights ({first_line(error)}).") from error
    state = _state_of(found)
    if state is None:
        raise ModelInvalid(f"{path}: holds no tensors by name. {REMEDY}")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if claimed > path.stat().st_size + SPARE_BYTES:
        raise ModelInvalid(f"{path}: claims {claimed:,} bytes of tensors, and holds fewer.")
    return state


_FAULTS: tuple[type[Exception], ...] = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, RecursionError, zipfile.BadZipFile),
)


def _check_zip(path: Path) -> None:
    """Refuse an archive that expands to more than it is."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > path.stat().st_size + SPARE_BYTES:
        raise ValueError("its archive expands to more than the file's size")


def _state_of(found: Any) -> StateDict | None:
    """Return the tensors by name, which may lie one level deeper."""
    if not isinstance(found, Mapping):
        return None
    for name in INSIDE:
        if isinstance(found.get(name), Mapping):
            found = found[name]
            break
    state = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not state or not all(isinstance(name, str) for name in state):
        return None
    return state if all(value.layout is torch.strided for value in state.values()) else None
