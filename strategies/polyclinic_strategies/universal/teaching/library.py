"""Library of encoders: the universal one, and those of the hospitals that taught it.

It is one safetensors file, in which every tensor has the name of its encoder before its own:

    universal/encoder.stem.weight, teacher-1/encoder.stem.weight, ...
    metadata polyclinic: {"names": ..., "settings": ..., "library": [{"name", "task"}, ...]}

Hospitals have no names in it. They are numbered by the digest of their weights, so the order says
nothing either; the kind of a hospital's task stands beside its number.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from polyclinic.config.schemas import JobConfig
from polyclinic.config.validation import validate
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.learning.model_file import build_model
from polyclinic.learning.state_dict import (
    StateDict,
    all_finite,
    load_metadata,
    load_state,
    save_state,
    state_digest,
)
from polyclinic.system.text import first_line
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.teaching.gating import trust
from polyclinic_strategies.universal.teaching.teachers import Teacher

UNIVERSAL = "universal"
BETWEEN = "/"  # between the name of an encoder and that of its tensor


@dataclass(frozen=True, eq=False)
class Encoder:
    """One encoder of a library.

    Attributes:
        name: `universal`, or `teacher-1`, `teacher-2` ...
        task: Kind of the task that it was trained for, in words; of the universal one nothing.
        state: Its tensors, `encoder.*`.
    """

    name: str
    task: str
    state: StateDict


@checked(frozen=True, config=ConfigDict(extra="ignore"))
class _Entry:
    """What a file says of one encoder."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
    task: Annotated[str, Field(max_length=200)] = ""


@checked(frozen=True, config=ConfigDict(extra="ignore"))
class _Card:
    """What a file says of its encoders."""

    library: tuple[_Entry, ...]


def write_library(
    path: Path, described: str, universal: StateDict, base: StateDict, teachers: Sequence[Teacher]
) -> int:
    """Write the universal encoder and those of its teachers.

    A teacher that is no fine-tuned copy of the base (`gating.trust`) is left out.

    Args:
        path: File to write.
        described: What a file says to build the network again, JSON.
        universal: The universal encoder's tensors.
        base: The encoder that the teachers started from.
        teachers: Those of the last stage.

    Returns:
        Number of teachers that are in it.
    """
    believed = [
        teacher
        for teacher in teachers
        if all_finite(teacher.encoder.values()) and trust(teacher.encoder, base) > 0
    ]
    believed.sort(key=lambda teacher: state_digest(teacher.encoder))
    shelf = [Encoder(UNIVERSAL, "", universal)]
    shelf += [
        Encoder(f"teacher-{number}", teacher.task, teacher.encoder)
        for number, teacher in enumerate(believed, start=1)
    ]
    state = {
        f"{each.name}{BETWEEN}{name}": tensor
        for each in shelf
        for name, tensor in each.state.items()
    }
    listed = [{"name": each.name, "task": each.task} for each in shelf]
    save_state(
        state, path, {"polyclinic": json.dumps({**json.loads(described), "library": listed})}
    )
    return len(believed)


def read_library(path: Path) -> tuple[UniversalNetwork, JobConfig, list[Encoder]]:
    """Read a library; the network has the weights of its first encoder, the universal one.

    Raises:
        ModelInvalid: The file is damaged, its encoders are of different networks, or have NaN.
        ConfigError: It is another kind of file, or a library without a teacher.
    """
    state, metadata = load_state(path)
    described = load_metadata(metadata, path)
    if "library" not in described:
        raise ConfigError(
            f"{path}: no library of encoders. Take the library.safetensors of a run with "
            "strategy=universal strategy.library=true; give a single encoder with --model."
        )
    try:
        card = validate(_Card, described)
    except ConfigError as error:
        raise ModelInvalid(f"{path}: its list of encoders is damaged.") from error
    parts = _divide(state, [entry.name for entry in card.library], path)
    if len(parts) < 2:
        raise ConfigError(
            f"{path}: a library without teachers, there is nothing to choose from. Ask for the "
            "universal encoder, and give it with --model."
        )
    network, job = build_model(next(iter(parts.values())), metadata, path)
    if not isinstance(network, UniversalNetwork) or network.head is not None:
        raise ConfigError(f"{path}: its encoders are of a model for one task.")
    shelf = [Encoder(entry.name, entry.task, parts[entry.name]) for entry in card.library]
    for each in shelf:
        _check(network, each, path)
    network.load_state_dict(shelf[0].state)
    return network, job, shelf


def choose_encoder(scores: Mapping[str, float]) -> str:
    """Return the name of the encoder with the best validation score, the first of equals.

    Args:
        scores: Name to score; the universal encoder comes first.
    """
    return max(scores, key=lambda name: scores[name])


def _divide(state: StateDict, names: Sequence[str], path: Path) -> dict[str, StateDict]:
    """Return the tensors of each encoder.

    Raises:
        ModelInvalid: There are tensors of none, or none of an encoder.
    """
    parts: dict[str, StateDict] = {name: {} for name in names}
    for key, tensor in state.items():
        name, _, inner = key.partition(BETWEEN)
        if name not in parts:
            raise ModelInvalid(f"{path}: has tensors of '{name}', which its list does not name.")
        parts[name][inner] = tensor
    if empty := [name for name, part in parts.items() if not part]:
        raise ModelInvalid(f"{path}: lists '{empty[0]}', and has no tensors of it.")
    if len(parts) != len(names):
        raise ModelInvalid(f"{path}: lists an encoder twice.")
    return parts


def _check(network: UniversalNetwork, encoder: Encoder, path: Path) -> None:
    """Check that an encoder is of the network, and finite.

    Raises:
        ModelInvalid: It is of another network, or has NaN or Inf.
    """
    try:
        network.load_state_dict(encoder.state)
    except (TypeError, RuntimeError) as error:
        raise ModelInvalid(
            f"{path}: {encoder.name} is of another network than the rest ({first_line(error)}). "
            "Ask for the file again."
        ) from error
    if not all_finite(encoder.state.values()):
        raise ModelInvalid(f"{path}: {encoder.name} has NaN or Inf. Ask for the file again.")
