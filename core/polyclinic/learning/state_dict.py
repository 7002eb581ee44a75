"""Arithmetic and files of named tensors.

A model travels as one flat float32 vector: its layout (names and shapes, in the network's own
order) follows from the network and from what stays at the hospital, is compared once by digest, and
need not travel every round.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from polyclinic.errors import ConfigError, DiskFull, ModelInvalid, StorageFailed, WeightsInvalid
from polyclinic.system.durable import replacing
from polyclinic.system.text import first_line, json_digest, parse_json

StateDict = dict[str, Tensor]
Personal = Literal["none", "norm", "all"]
LONGEST = 10.0  # norms of the weights themselves
NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def shared_names(network: nn.Module, personal: str) -> list[str]:
    """List the tensors that a hospital shares, in the network's order.

    Args:
        network: Any network.
        personal: What stays at the hospital: `none`; `norm`, all parameters and statistics of
            normalization layers (FedBN, Li et al. 2021, https://arxiv.org/abs/2102.07623); `all`,
            so that nothing is shared.

    Counters and other integers are never shared: their mean has no meaning.

    Raises:
        ConfigError: `personal` is another word.
    """
    if personal not in ("none", "norm", "all"):
        raise ConfigError(f"strategy.personal={personal}: one of none, norm, all.")
    kept = set()
    if personal == "norm":
        layers = [
            (name, layer)
            for name, layer in network.named_modules()
            if isinstance(layer, NORMALIZATION)
        ]
        kept = {f"{name}.{key}" for name, layer in layers for key in layer.state_dict()}
    state = network.state_dict()
    return [
        name
        for name in state
        if personal != "all" and name not in kept and state[name].is_floating_point()
    ]


def pack(state: Mapping[str, Tensor], names: Sequence[str]) -> Float[Tensor, " parameters"]:
    """Write the named tensors one after another into one float32 vector."""
    if not names:
        return torch.zeros(0)
    return torch.cat([state[name].detach().to("cpu", torch.float32).reshape(-1) for name in names])


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether no tensor holds NaN or Inf."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def unpack(
    vector: Float[Tensor, " parameters"], like: Mapping[str, Tensor], names: Sequence[str]
) -> StateDict:
    """Undo `pack`, with shapes and types as in `like`.

    Raises:
        WeightsInvalid: The vector is longer or shorter than the tensors, or holds NaN or Inf.
    """
    sizes = [like[name].numel() for name in names]
    if vector.numel() != sum(sizes):
        raise WeightsInvalid(
            f"The weights that arrived have {vector.numel()} numbers, this network has "
            f"{sum(sizes)}."
        )
    if not bool(torch.isfinite(vector).all()):
        raise WeightsInvalid(
            "The weights that arrived contain NaN or Inf: training diverged. Lower "
            "training.learning_rate."
        )
    pieces = torch.split(vector, sizes) if sizes else ()
    return {
        name: piece.reshape(like[name].shape).to(like[name].dtype)
        for name, piece in zip(names, pieces, strict=True)
    }


def subtract(tuned: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> StateDict:
    """Compute the task vector `tuned - base`, tensor by tensor, float32.

    Raises:
        ValueError: The names differ.

    Ilharco et al. 2023, https://arxiv.org/abs/2212.04089.
    """
    if set(tuned) != set(base):
        raise ValueError(f"the two models differ in {sorted(set(tuned) ^ set(base))[:3]}")
    return {
        name: (tensor.float() - base[name].float()).contiguous() for name, tensor in tuned.items()
    }


def layout_digest(state: Mapping[str, Tensor], names: Sequence[str]) -> str:
    """Compute the SHA-256 of names and shapes: equal when two sides pack alike."""
    return json_digest([[name, list(state[name].shape)] for name in names])


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Compute a model's identity: the SHA-256 of names, types, shapes and bytes, ordered by name.

    Every tensor is asked for once, one after another, so that `state` may read them from a file as
    it goes.
    """
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu").contiguous()
        described = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        found.update(json.dumps(described).encode() + b"\n")
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def packed_digest(vector: Tensor) -> str:
    """Compute the SHA-256 of the bytes of a packed vector."""
    return hashlib.sha256(np.ascontiguousarray(vector.numpy()).data).hexdigest()


def save_state(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: complete or not at all.

    Raises:
        DiskFull: No room.
        StorageFailed: The folder cannot be written to.
    """
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    try:
        with replacing(path, needed_bytes=needed) as unfinished:
            save_file(tensors, unfinished, dict(metadata))
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else needed
        if free < needed:
            raise DiskFull(path.parent, free, needed) from error
        raise StorageFailed(path, str(error)) from error


def load_state(path: Path) -> tuple[StateDict, dict[str, str]]:
    """Read tensors and metadata of a safetensors file.

    Raises:
        ModelInvalid: Missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelInvalid(
            f"{path}: not a readable safetensors file ({first_line(error)})."
        ) from error


def load_metadata(metadata: Mapping[str, str], path: Path) -> dict[str, object]:
    """Read the job that a model was made for, as kept in its file.

    Raises:
        ModelInvalid: The file was not written by polyclinic.
    """
    try:
        job = parse_json(metadata["polyclinic"])
        if not isinstance(job, dict):
            raise ValueError("no table")
    except (KeyError, ValueError) as error:
        raise ModelInvalid(
            f"{path}: has no polyclinic metadata, so its network is unknown. Use a file that "
            "`export` wrote."
        ) from error
    return job


def longest_update(norm: float, numbers: int) -> float:
    """Return the largest Euclidean norm of an update that training could have made.

    It is generous: `LONGEST` times the weights' own norm, or that of weights which all are 1.

    Args:
        norm: Euclidean norm of the weights before the update.
        numbers: Count of the weights.
    """
    return LONGEST * max(norm, math.sqrt(numbers))
