"""Plans: what hospitals answer for them, and their files."""

import contextlib
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from flwr.app import Message

from polyclinic.config.plan_files import Plan, read_plan
from polyclinic.errors import ConfigError
from polyclinic_strategies.planning.fingerprint import shapes
from polyclinic_strategies.planning.messages import read_fingerprint
from tests.fuzz.messages import answer_reader
from tests.fuzz.mutation import as_json, damaged
from tests.fuzz.reader import Reader


def _first_bin(shape: tuple[int, ...]) -> bytes:
    """A mean of shares that all lie in the first bin."""
    values = np.zeros(shape, "<f4")
    values[..., 0] = 1
    return values.tobytes()


def _read_fingerprint(message: Message) -> None:
    found = read_fingerprint(message, 1, 3)
    assert {name: part.shape for name, part in found.parts.items()} == shapes(1, 3)
    assert all(0 <= part.min() <= part.max() <= 1.01 for part in found.parts.values())


def _read_plan(content: bytes, folder: Path) -> None:
    (folder / "plan.yaml").write_bytes(content)
    plan = read_plan(folder / "plan.yaml")
    assert plan.digest == plan.compute_digest() and plan.overrides()[0].startswith("data=")


def _plan() -> dict[str, Any]:
    """What a plan's file holds."""
    made = Plan(
        data="planned",
        settings={"data.patch": [40, 56, 40], "data.labels": ["background", "tumour"]},
        reasons={"data.patch": "all of the median image"},
        memory_gb=1.5,
        fingerprint={"patients": 12, "median spacing_mm": [1.0, 1.0, 0.62]},
    )
    return made.model_copy(update={"digest": made.compute_digest()}).model_dump(mode="json")


def _draw_plan(random: Random) -> bytes:
    """Draw a plan with faults, many of them with the digest that fits; JSON is YAML."""
    content = as_json(PLAN, random)
    if random.random() < 0.5:
        with contextlib.suppress(ValueError, TypeError, RecursionError, ConfigError):
            made = Plan.model_validate(json.loads(content))
            digest = made.compute_digest()
            return json.dumps({**made.model_dump(mode="json"), "digest": digest}).encode()
    if random.random() < 0.3:
        return damaged(content, random)
    return b"a: &a [1]\n" + content if random.random() < 0.1 else content


FINGERPRINT = {
    **{f"mean.{name}": _first_bin(shape) for name, shape in shapes(1, 3).items()},
    **{"subjects": 5, "seconds": 2.0},
}
PLAN = _plan()
READERS = (
    answer_reader("fingerprint", {"config": FINGERPRINT}, _read_fingerprint),
    Reader("plan", json.dumps(PLAN).encode(), _draw_plan, _read_plan, (ConfigError,)),
)
