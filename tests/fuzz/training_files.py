"""Files of a training: moments of an optimizer, prepared cases, and the best round."""

import io
import json
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from polyclinic.config.compose import load_config
from polyclinic.learning.cases.disk_cache import DiskCache
from polyclinic.learning.optimizing.moments import Moments
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic_strategies.averaging.best import read_best
from tests.fuzz.mutation import damaged
from tests.fuzz.reader import Reader

KEY = "a" * 64
BEST = {"round": 3, "score": 0.5, "hospitals": 2}


def _stepper() -> Stepper:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, 0.9)
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    stepper = Stepper(layer, load_config().training, optimizer)
    stepper.scaler = torch.amp.GradScaler("cpu")
    stepper.scaler.scale(torch.ones(1))  # type: ignore[no-untyped-call]
    return stepper


def _moments() -> bytes:
    content = io.BytesIO()
    stepper = _stepper()
    kept = {"optimizer": stepper.optimizer.state_dict(), "scaler": stepper.scaler.state_dict()}
    torch.save(kept, content)
    return content.getvalue()


def _array() -> bytes:
    content = io.BytesIO()
    np.save(content, np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    return content.getvalue()


def _read_moments(content: bytes, folder: Path) -> object:
    (folder / "moments-1.pt").write_bytes(content)
    stepper = _stepper()
    Moments(folder, 2).take_up(stepper)
    return stepper


def _read_case(content: bytes, folder: Path) -> object:
    cache = DiskCache(folder / "cache", 1e9)
    entry = cache.folder / KEY
    entry.mkdir(parents=True, exist_ok=True)
    (entry / "image.npy").write_bytes(content)
    found = cache.load(KEY)
    assert found is None or found["image"].nbytes <= len(content)
    return found


def _read_best(content: bytes, folder: Path) -> object:
    (folder / "best.safetensors").write_bytes(content)
    best = read_best(folder / "best.safetensors")
    assert best is None or (best.round >= 1 and best.score == best.score)
    return best


def _reader(name: str, sound: bytes, read: object) -> Reader:
    def draw(random: Random) -> bytes:
        return damaged(sound, random)

    return Reader(name, sound, draw, read, ())  # type: ignore[arg-type]


READERS = (
    _reader("moments", _moments(), _read_moments),
    _reader("prepared-case", _array(), _read_case),
    _reader(
        "best-round",
        save({"a": torch.zeros(2)}, {"polyclinic": json.dumps(BEST)}),
        _read_best,
    ),
)
