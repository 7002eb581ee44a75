"""A hospital's policy, STATE/policy.yaml: what it lets a coordinator ask for.

    strategies: [averaging, merging]
    epochs: 500
    min_subjects: 20
    approval: true

It counts whatever the coordinator asks for; the stricter side wins in every field. It is read again
for every message. A second file, which the environment variable POLYCLINIC_POLICY names, may belong
to somebody else, such as the data-protection officer: the stricter of both files counts.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from polyclinic.config.release import MinSubjects, NoiseMultiplier, Release
from polyclinic.config.schemas import STRICT, Count
from polyclinic.config.validation import validate
from polyclinic.errors import ConfigError
from polyclinic.system.durable import write_durably
from polyclinic.system.machine import given_memory
from polyclinic.system.plain_yaml import parse_yaml
from polyclinic.system.text import parse_json

FILE = "policy.yaml"
EARLIER = ("limits.json", "release.json")  # of 0.1.0; what they say counts until it is said again
SECOND = "POLYCLINIC_POLICY"  # environment variable that names another policy
LARGEST_BYTES = 64 * 1024
Size = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Name = Annotated[str, Field(strict=True, min_length=1, max_length=200)]
Names = Annotated[tuple[Name, ...], Field(max_length=256)]
Truth = Annotated[bool, Field(strict=True)]


@dataclass(frozen=True, config=STRICT)
class Policy:
    """What a hospital lets a coordinator ask for.

    Attributes:
        strategies: Names of methods, such as averaging or merging; None for all that are installed.
        models: Names of conf/model; None for all.
        tasks: Names of conf/data; None for all.
        statistics: Names of statistics about images; None for all that are installed.
        approval: Whether a person must approve every run (`polyclinic-client approve`).
        secure_sums: Whether updates leave only as parts of sums that nobody can take apart.
        epsilon: Most that all training for a run may tell about one patient, as differential
            privacy with this epsilon; None demands none.
        epsilon_budget: Most that all training may tell about one patient, over all runs; None sets
            no bound.
        hide_epsilon: Whether the coordinator is not told what training has told so far.
        hide_machine: Whether the coordinator is not told what the worker computes with.
        min_subjects: No mean over fewer subjects leaves.
        noise_multiplier: Least noise on such a mean, see `polyclinic.config.release.Release`.
        delta: Value for which epsilon is computed.
        memory_gb: Memory, in GiB, of one of the hospital's two working processes; None for nine
            tenths of the machine's, or of the container's.
        cache_gb: Memory for prepared cases, in GiB; None for half of `memory_gb`. A job that asks
            for more gets this much, and reads the other cases again in each pass.
        disk_gb: Disk for prepared cases that do not stay in memory, in GiB; None for half of what
            is free; 0 for none.
        epochs: Passes over the training cases in all rounds of a run.
        hours: Time for one piece of work, such as a round or a contribution.
        releases: Number of different questions for statistics that are answered, ever.
        imprint_guard: Whether models whose weights are made to hold images are refused, see
            `polyclinic_client.policy.imprint`.
    """

    strategies: Names | None = None
    models: Names | None = None
    tasks: Names | None = None
    statistics: Names | None = None
    approval: Truth = False
    secure_sums: Truth = False
    epsilon: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    epsilon_budget: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    hide_epsilon: Truth = False
    hide_machine: Truth = False
    min_subjects: MinSubjects = 3
    noise_multiplier: NoiseMultiplier = 0.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    memory_gb: Size | None = None
    cache_gb: Size | None = None
    disk_gb: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    epochs: Count = 10_000
    hours: Annotated[float, Field(gt=0, le=8784, allow_inf_nan=False)] = 168.0
    releases: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    imprint_guard: Truth = True

    @property
    def release(self) -> Release:
        """What the hospital demands before a mean over its subjects leaves."""
        return Release(self.min_subjects, self.noise_multiplier, self.delta)

    @property
    def memory_bytes(self) -> float:
        """Memory of one process."""
        if self.memory_gb is not None:
            return self.memory_gb * 2**30
        return 0.9 * given_memory()

    def strictest(self, other: "Policy") -> "Policy":
        """Return what is as careful as both in every field."""
        return Policy(
            **{
                field.name: _stricter(
                    field.name, getattr(self, field.name), getattr(other, field.name)
                )
                for field in fields(self)
            }
        )


class PolicyDamaged(ConfigError):
    """A hospital's policy cannot be read, so nothing is done and nothing leaves."""

    shareable = False  # the text may quote the file

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path} cannot be used ({problem.rstrip('.')}), so nothing leaves this hospital. "
            "Correct it, or remove it and say again what it said."
        )


LARGER_IS_STRICTER = ("min_subjects", "noise_multiplier")


def _stricter(name: str, ours: Any, theirs: Any) -> Any:
    """Return the stricter value of one field; None is the least strict."""
    if ours is None or theirs is None:
        return theirs if ours is None else ours
    if isinstance(ours, bool):
        return ours or theirs
    if isinstance(ours, tuple):
        return tuple(each for each in ours if each in theirs)
    return max(ours, theirs) if name in LARGER_IS_STRICTER else min(ours, theirs)


def read_policy(state: Path) -> Policy:
    """Read the hospital's policy, the stricter of its own and a second one if there is one.

    Raises:
        PolicyDamaged: A file is damaged, cannot be read, or is not there although it is named:
            nothing leaves, and nothing is done.
    """
    policy = validate_policy(_own(state), state / FILE)
    second = os.environ.get(SECOND)
    if second:
        path = Path(second)
        policy = policy.strictest(validate_policy(_read(path, missing=False), path))
    return policy


def policy_files(state: Path) -> list[Path]:
    """Return the files in which the hospital's policy stands, whether or not they are there."""
    second = os.environ.get(SECOND)
    return [state / FILE, *([Path(second)] if second else [])]


def keep_policy(state: Path, **changes: object) -> None:
    """Remember what was said on the command line; lines that were not named stay as they are.

    Args:
        state: The hospital's state folder.
        changes: Fields of `Policy`; None where nothing was said.

    Raises:
        PolicyDamaged: A value is out of its bounds, or the policy is damaged.
    """
    said = {name: value for name, value in changes.items() if value is not None}
    if not said:
        return
    path = state / FILE
    present = _read(path)
    lines = {name: value for name, value in _earlier(state).items() if name not in present} | said
    wanted = validate_policy({**present, **lines}, path)
    text = path.read_text() if path.exists() else ""
    for name, value in lines.items():
        text = _with_line(text, name, value)
    if validate_policy(_parse(text.encode(), path), path) != wanted:
        raise PolicyDamaged(path, f"{', '.join(said)} takes several lines: edit it by hand")
    write_durably(path, text)
    for name in EARLIER:
        (state / name).unlink(missing_ok=True)


def validate_policy(values: Mapping[str, Any], path: Path) -> Policy:
    """Make a policy of what a file says.

    Raises:
        PolicyDamaged: A field is unknown, of another kind, or out of its bounds.
    """
    try:
        return validate(Policy, values)
    except ConfigError as error:
        raise PolicyDamaged(path, str(error)) from error


def _own(state: Path) -> dict[str, Any]:
    return {**_earlier(state), **_read(state / FILE)}


def _earlier(state: Path) -> dict[str, Any]:
    """Read what 0.1.0 kept of the options of `join`."""
    found: dict[str, Any] = {}
    for name in EARLIER:
        found |= _read(state / name)
    return found


def _read(path: Path, *, missing: bool = True) -> dict[str, Any]:
    """Read a flat file of names and values; nothing where it may be missing, and is."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        if missing:
            return {}
        raise PolicyDamaged(path, "it is not there") from error
    except OSError as error:
        raise PolicyDamaged(path, error.strerror or str(error)) from error
    return _parse(content, path)


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    if len(content) > LARGEST_BYTES:
        raise PolicyDamaged(path, f"it is longer than {LARGEST_BYTES} bytes")
    try:
        said = parse_json(content) if path.suffix == ".json" else parse_yaml(content)
    except (ValueError, yaml.YAMLError) as error:
        raise PolicyDamaged(path, "it is no YAML") from error
    said = {} if said is None else said
    if not isinstance(said, dict) or not all(isinstance(name, str) for name in said):
        raise PolicyDamaged(path, "it is no list of `name: value`")
    return said


def _with_line(text: str, name: str, value: object) -> str:
    """Return YAML with one of its lines said anew; comments and other lines stay."""
    line = f"{name}: {json.dumps(value)}"
    changed, count = re.subn(rf"(?m)^{re.escape(name)}[ \t]*:.*$", line, text)
    if count:
        return changed
    return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n"
