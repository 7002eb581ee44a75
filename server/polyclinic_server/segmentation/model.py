"""Network of a segmentation service: a proxy in, labels or probabilities out.

Volumes are computed one after another. Two in one batch take as much processor time each as one
alone (within 20 % either way, on two cores, U-Net of 16, 32 and 64 channels, 160 x 192 x 160), and
twice the memory, and the first answer comes only with the second (`benchmarks/proxy_service.py`
measures it). The windows of one volume are read two at a time
(`polyclinic.learning.training.infer`).
"""

import json
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ModelInvalid
from polyclinic.learning.model_file import load_model
from polyclinic.learning.state_dict import load_state
from polyclinic.learning.training import infer
from polyclinic_strategies.proxy.settings import ABOUT
from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from polyclinic_strategies.proxy.wire.arrays import TOP

MOST_VOXELS = 2**28


class Interrupted(Exception):
    """Nobody waits for the answer any more."""


class Interruptible(nn.Module):
    """A network that stops before its next window once nobody waits for its answer."""

    def __init__(self, network: nn.Module, gone: threading.Event) -> None:
        super().__init__()
        self.network = network
        self._gone = gone

    def forward(self, windows: Tensor) -> Tensor:
        """Return the network's logits.

        Raises:
            Interrupted: `gone` is set.
        """
        if self._gone.is_set():
            raise Interrupted
        logits: Tensor = self.network(windows)
        return logits


@dataclass(frozen=True)
class SegmentationModel:
    """A network that was trained on proxies, and the grid of these proxies."""

    network: nn.Module
    data: DataConfig
    shape: tuple[int, int, int]
    digest: str  # digest of the generator and its reference grid

    @classmethod
    def load(cls, path: Path) -> "SegmentationModel":
        """Load the model of a file.

        Raises:
            ModelInvalid: The file is damaged, not from polyclinic, not a segmentation, or not made
                for proxies.
        """
        _, metadata = load_state(path)
        if '"protection"' in metadata.get("polyclinic", ""):
            raise ModelInvalid(
                f"{path}: this is the generator, which goes to the hospitals. "
                "Give segmenter.safetensors to the service."
            )
        network, job = load_model(path)
        try:
            described = json.loads(metadata["polyclinic"])[ABOUT]
            shape, digest = tuple(described["shape"]), described["digest"]
            sound = (
                len(shape) == 3
                and all(type(size) is int and size > 0 for size in shape)
                and math.prod(shape) <= MOST_VOXELS
            )
            if not sound or not isinstance(digest, str) or not digest:
                raise ValueError("no such shape or digest")
        except (KeyError, TypeError, ValueError) as error:
            raise ModelInvalid(
                f"{path}: the model was not trained on proxies, because it names no shape and "
                "digest of theirs. Use the file that `polyclinic-server train-proxy` wrote for the "
                "service."
            ) from error
        if job.data.task != "segmentation" or job.data.channels != 1 or job.data.spatial_dims != 3:
            raise ModelInvalid(
                f"{path}: the network was made for another task than the segmentation of proxies, "
                "which have one channel in three dimensions. Use segmenter.safetensors."
            )
        model = cls(network, job.data, shape, digest)
        model._try(path)
        return model

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; 0 is the background."""
        return self.data.labels

    def segment(self, volume: NDArray[Any], kind: int, gone: threading.Event) -> NDArray[np.uint8]:
        """Return the answer for one proxy.

        Args:
            volume: uint8 or float16 on the scale 0..255, of the model's shape; the network reads it
                divided by 255.
            kind: An `AnswerKind`.
            gone: Set when nobody waits for the answer any more.

        Raises:
            Interrupted: `gone` is set.
            ArithmeticError: The network's output is not finite.
        """
        with torch.inference_mode():
            image = torch.from_numpy(volume.astype(np.float32))[None].div_(TOP)
            logits = infer(Interruptible(self.network, gone), image, self.data)
            if not torch.isfinite(logits).all():
                raise ArithmeticError("the network's answer is not finite")
            if kind == wire.LABELS:
                return np.asarray(logits.argmax(0).to(torch.uint8).numpy())
            return np.asarray(logits.softmax(0)[1:].mul(TOP).round_().to(torch.uint8).numpy())

    def _try(self, path: Path) -> None:
        """Run the network on one window.

        A model that cannot answer is found at the start, not at the first request.
        """
        try:
            with torch.inference_mode():
                found = self.network(torch.zeros(1, 1, *self.data.patch)).shape
        except (RuntimeError, ValueError, TypeError) as error:
            raise ModelInvalid(
                f"{path}: the network fails on one patch ({type(error).__name__}). Train it again."
            ) from error
        if found != (1, len(self.labels), *self.data.patch):
            raise ModelInvalid(
                f"{path}: the network's output for a patch of {self.data.patch} has the shape "
                f"{tuple(found)}. Train it again."
            )
