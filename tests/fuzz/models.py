"""Files of tensors: models, contributions, and what hospitals and coordinators keep of them."""

import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from polyclinic.config.compose import instantiate
from polyclinic.config.jobs import load_job
from polyclinic.errors import ConfigError, FrameInvalid, ModelInvalid
from polyclinic.federation.envelope import decode
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.learning.model_file import load_model
from polyclinic.learning.state_dict import load_metadata, load_state
from polyclinic.store.contribution import TensorFile
from polyclinic.store.refusals import ContributionRefused
from polyclinic.store.requirements import Requirements, check_contribution
from polyclinic_strategies.merging.intake.statistics import (
    check_description,
    check_statistics,
    check_wanted,
)
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator
from polyclinic_strategies.proxy.protection import Protection
from polyclinic_strategies.refinement.refiner import _read as read_description
from polyclinic_strategies.universal.exchange import read_declaration
from polyclinic_strategies.universal.teaching.library import read_library
from tests.fuzz.messages import BLOB, NAMES, Folder, array_bytes, envelope
from tests.fuzz.mutation import as_json, changed, damaged
from tests.fuzz.reader import Reader

SMALL = {"model.channels": [4, 8], "model.strides": [2], "model.num_res_units": 0}
LAYOUT = {"conv.weight": (2, 3), "conv.bias": (2,)}
ABOUT = {
    **{"site": "north", "base": "b" * 64, "task": "t", "num_examples": 4, "created": 1.7e9},
    **{"metrics": {"loss": 0.3, "classes": 2.0, "channels": 1.0, "dimensions": 2.0}},
    "version": "0.2.0",
}
TYPES = ("F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "x")
Tensors = dict[str, torch.Tensor]


def packed(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def described(tensors: Tensors, metadata: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a file of float32 tensors."""
    header: dict[str, Any] = {"__metadata__": {"polyclinic": metadata.decode("utf-8", "replace")}}
    data = b""
    for name, tensor in sorted(tensors.items()):
        content = tensor.float().numpy().tobytes()
        shape, place = list(tensor.shape), [len(data), len(data) + len(content)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": place}
        data += content
    return header, data


def tensor_file(tensors: Tensors, metadata: Any) -> bytes:
    return packed(*described(tensors, json.dumps(metadata).encode()))


def drawn(make: Callable[[], tuple[Tensors, Any]]) -> Callable[[Random], bytes]:
    """Return what draws a file with faults: in its description, its header, numbers or bytes."""

    def draw(random: Random) -> bytes:
        tensors, metadata = make()
        kind = random.randrange(10)
        if kind < 5:
            return packed(*described(tensors, as_json(metadata, random)))
        if kind == 5:
            tensors = {name: _other(tensor, random) for name, tensor in tensors.items()}
            return tensor_file(tensors, metadata)
        header, data = described(tensors, json.dumps(metadata).encode())
        if kind == 9:
            return damaged(packed(header, data), random, 0, random.choice((8, 200, 10**6)))
        return packed(_other_header(header, random), data)

    return draw


def _other_header(header: dict[str, Any], random: Random) -> Any:
    kind = random.randrange(3)
    if kind == 0:
        return changed(header, random)
    if kind == 1:
        return as_json(header, random)
    entry = header[random.choice([key for key in header if key != "__metadata__"])]
    entry["dtype"] = random.choice(TYPES)
    if random.random() < 0.5:
        entry["shape"] = random.choice(([], [0], [2**40], [1] * 70, [-1], [2, 2]))
    return header


def _other(tensor: torch.Tensor, random: Random) -> torch.Tensor:
    if random.random() < 0.5:
        return tensor
    kind = random.randrange(5)
    if kind == 0:
        return torch.full_like(tensor, random.choice((torch.nan, torch.inf, 1e38, -1.0)))
    if kind == 1:
        return tensor.reshape(-1)
    if kind == 2:
        return tensor.reshape(-1)[:0]
    return tensor * random.choice((-1, 1e20, 0))


def _tensor_reader(
    name: str,
    make: Callable[[], tuple[Tensors, Any]],
    read: Callable[[Path], object],
    *errors: type[BaseException],
    sound: bytes = b"",
) -> Reader:
    def read_file(content: bytes, folder: Path) -> object:
        path = folder / "file.safetensors"
        path.write_bytes(content)
        return read(path)

    return Reader(name, sound or tensor_file(*make()), drawn(make), read_file, errors)


@cache
def _model() -> tuple[Tensors, Any]:
    network = instantiate(load_job(NAMES, SMALL).model)
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    return state, {"names": NAMES, "settings": SMALL}


@cache
def _library() -> tuple[Tensors, Any]:
    names = dict.fromkeys(("model", "data", "training"), "universal")
    settings = {"model.encoder.widths": [8], "data.patch": [8, 8]}
    state = instantiate(load_job(names, settings).model).state_dict()
    shelf = ("universal", "teacher-1")
    tensors = {f"{each}/{name}": tensor for each in shelf for name, tensor in state.items()}
    listed = [{"name": each, "task": "segmentation"} for each in shelf]
    return tensors, {"names": names, "settings": settings, "library": listed}


@cache
def _generator() -> tuple[Tensors, Any]:
    about = {"smoothness": 1.0, "bound": 2.0, "channels": [2, 2, 2], "labels": ["a", "b"]}
    network = FlowGenerator((2, 2, 2), 1.0, 2.0).state_dict()
    tensors = {f"generator.{name}": tensor for name, tensor in network.items()}
    tensors |= {"reference.image": torch.zeros(8, 8, 8), "reference.affine": torch.eye(4)}
    return tensors, {"protection": about}


def _contribution() -> tuple[Tensors, Any]:
    tensors = {f"task_vector/{name}": torch.ones(shape) for name, shape in LAYOUT.items()}
    tensors["statistics/gram/conv.weight"] = torch.eye(3)
    tensors["statistics/fisher/conv.weight"] = torch.ones(2, 3)
    tensors["statistics/site/histogram"] = torch.full((4,), 0.25)
    tensors["statistics/site/histogram.variance"] = torch.full((1,), 0.25)
    return tensors, ABOUT


def _read_contribution(path: Path) -> None:
    def inspect(file: TensorFile, site: str) -> None:
        check_wanted(file, site, ("gram", "fisher", "histogram"), variances=True)
        check_statistics(file, site, LAYOUT)
        check_description(file, site)

    kinds = frozenset({"gram", "fisher", "histogram"})
    wanted = Requirements(
        "b" * 64, LAYOUT, "t", frozenset({"north"}), 10**6, 10.0, {}, 1, kinds, 1e6, inspect
    )
    found, norm = check_contribution(path, "north", wanted, (1.0, 2.0, 3.0))
    assert 0 <= norm <= 1e6 and found.site == "north" and found.num_examples > 0
    read_declaration(found.metrics)


def _described() -> tuple[Tensors, Any]:
    return {"histogram": torch.full((4,), 0.25)}, {"base": "b" * 64, "subjects": 4}


def _read_model(path: Path) -> None:
    network, job = load_model(path)
    assert not network.training and job.data.labels


def _read_blob(content: bytes, folder: Path) -> None:
    """Read an array beside an envelope, of which the envelope says what it holds."""
    (folder / BLOB).write_bytes(content)
    said = envelope({"arrays": {"weights": torch.zeros(5).numpy()}}, answer=True)
    entry = said.content.records[0].arrays.entries[0]
    entry.blob.CopyFrom(wire.Blob(digest=BLOB, size=len(content)))
    array = decode(said, Folder(folder)).content["arrays"]["weights"].numpy()
    assert array.shape == (5,) and array.dtype == "float32"


_NPY = array_bytes(torch.zeros(5).numpy())
READERS = (
    _tensor_reader("model", _model, _read_model, ModelInvalid),
    _tensor_reader(
        "state",
        _model,
        lambda path: load_metadata(load_state(path)[1], path),
        ModelInvalid,
    ),
    _tensor_reader("contribution", _contribution, _read_contribution, ContributionRefused),
    _tensor_reader("description-file", _described, read_description, ModelInvalid),
    _tensor_reader("library", _library, read_library, ModelInvalid, ConfigError),
    _tensor_reader("generator", _generator, Protection.load, ModelInvalid),
    Reader(
        "array-blob",
        _NPY,
        lambda random: damaged(_NPY, random, 0, random.choice((10, 128, 200))),
        _read_blob,
        (FrameInvalid,),
    ),
)
