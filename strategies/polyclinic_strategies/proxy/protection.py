"""A hospital's protection: generator and reference in one file, and how they are used on a scan.

The key belongs to one scan, never leaves the hospital and is not kept. It follows from the scan's
voxels and a secret of the hospital (HMAC). So a scan that is sent again tells nothing new: it has
one proxy, and nobody can average several. If a hospital chooses so, the key follows from the
patient's name instead: then all visits of a patient show the same stranger.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from pydantic import BaseModel
from pydantic import Field as Bounds
from torch import Tensor

from polyclinic.errors import ModelInvalid, RunError
from polyclinic.imaging.deformation import jacobian_determinant, upsample
from polyclinic.learning.networks.bounded import bounded_network
from polyclinic.learning.state_dict import load_state, save_state, state_digest
from polyclinic.security.secret import Secret
from polyclinic.system.text import first_line, parse_json
from polyclinic_strategies.proxy.frame.atlas import Reference
from polyclinic_strategies.proxy.frame.canonical import Canonical, canonicalize
from polyclinic_strategies.proxy.generator import (
    IMAGE_MM,
    Field,
    LearnedField,
    Shape,
    displace,
    draw_keys,
    draw_seed,
    seed_of,
    shrink,
)
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator

FINEST_MM = 2.0  # voxel size at which a scan is read before it is averaged to `IMAGE_MM`
TOP = 255  # the number for an intensity, and for a probability, of 1
TRIES = 5
# of a proxy that may be sent, in the head: displacement without the part that shifts all of it
# (a trained generator has 4.7 mm root mean square), and share of the intensities' range
LEAST_MEDIAN_MM, LEAST_P95_MM, LEAST_CHANGE = 1.0, 2.0, 0.01
SPARE = 2  # a network may register a tensor again
Channels = Annotated[int, Bounds(ge=1, le=4096)]
REFERENCE, AFFINE, NETWORK = "reference.image", "reference.affine", "generator."


class _About(BaseModel):
    """What a generator's file says of it."""

    smoothness: Annotated[float, Bounds(ge=0, le=100)]
    bound: Annotated[float, Bounds(gt=0, le=1000)]
    channels: tuple[Channels, Channels, Channels]
    labels: tuple[str, ...]


def _refuse(asked: str) -> ValueError:
    return ValueError(f"it describes {asked}, and holds fewer")


@dataclass(frozen=True)
class Change:
    """How far a proxy is from its scan, in the head.

    Attributes:
        median_mm: Displacement, without the part that shifts all of the head.
        p95_mm: The same of the voxels that move most, 95th percentile.
        difference: Mean difference of intensities, as a share of their range.
    """

    median_mm: float
    p95_mm: float
    difference: float

    def __str__(self) -> str:
        return (
            f"displaced by {self.median_mm:.1f} mm (median; 95 %: {self.p95_mm:.1f} mm), changed "
            f"by {self.difference:.3f}"
        )


@dataclass(frozen=True, eq=False)
class Protected:
    """A scan's proxy, and the way back.

    Attributes:
        canonical: The scan; stays at the hospital.
        proxy: (H, W, D), uint8; is sent.
        change: How far it is from the scan.
        ddf: (1, 3, h, w, d), the deformation of the scan, in voxels of its own grid over the
            reference's box.
        inverse: The deformation that undoes it.
    """

    canonical: Canonical
    proxy: NDArray[np.uint8]
    change: Change
    ddf: Tensor
    inverse: Tensor

    def reveal(self, answer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an answer back to the scan's own grid.

        Args:
            answer: (H, W, D), labels; or (classes - 1, H, W, D), foreground probabilities times
                255.

        Returns:
            (X, Y, Z), labels.
        """
        return self.canonical.label_map(torch.from_numpy(answer), self.inverse, TOP)


class Protection:
    """Generator and reference.

    Args:
        field: The generator.
        reference: The frame to which scans are brought; the proxy has its shape.
        labels: Names of the classes in the service's answer.
        secret: The hospital's, from which keys follow, so that a scan has one proxy. None: a key is
            drawn for every proxy, to measure what several of one scan tell.
        patient: What the hospital calls the patient, if all scans of a patient shall have one key;
            empty: a key for each scan.
    """

    def __init__(
        self,
        field: LearnedField,
        reference: Reference,
        labels: tuple[str, ...],
        secret: Secret | None = None,
        patient: str = "",
    ) -> None:
        self.secret, self.patient = secret, patient
        self.field = field.eval()
        self.reference = reference
        self.labels = labels
        weights = state_digest(field.network.state_dict())
        settings = field.network.smoothness, field.network.bound
        self.digest = hashlib.sha256(
            f"{reference.digest} {weights} {settings} {labels}".encode()
        ).hexdigest()

    @property
    def shape(self) -> Shape:
        """Shape of the proxy."""
        return self.reference.shape

    @property
    def coarse(self) -> Tensor:
        """Reference with voxels of `IMAGE_MM`, (h, w, d)."""
        return coarse_reference(self.reference)

    @classmethod
    def load(cls, path: Path, secret: Secret | None = None, patient: str = "") -> "Protection":
        """Load a file from `save`.

        Raises:
            ModelInvalid: The file is damaged, or of another kind.
        """
        state, metadata = load_state(path)
        try:
            about = _About.model_validate(parse_json(metadata["polyclinic"])["protection"])
            image, affine = state.pop(REFERENCE), state.pop(AFFINE)
            reference = Reference(image.float() / 65535, affine.double().numpy())
            most = SPARE * sum(tensor.numel() for tensor in state.values())
            with bounded_network(most, _refuse):
                network = FlowGenerator(about.channels, about.smoothness, about.bound)
            weights = {name.removeprefix(NETWORK): tensor for name, tensor in state.items()}
            network.load_state_dict(weights)
            field = LearnedField(coarse_reference(reference), network)
            return cls(field, reference, about.labels, secret, patient)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelInvalid(
                f"{path}: not a generator ({first_line(error)}). "
                "Use the generator.safetensors that `polyclinic-server train-proxy` wrote and "
                "the coordinator sent."
            ) from error

    def save(self, path: Path) -> None:
        """Write one safetensors file.

        Raises:
            DiskFull: No room.
        """
        network = self.field.network
        described = {
            "channels": network.channels,
            "smoothness": network.smoothness,
            "bound": network.bound,
            "labels": self.labels,
        }
        state = {f"{NETWORK}{name}": tensor for name, tensor in network.state_dict().items()}
        state[REFERENCE] = (self.reference.image * 65535).round().to(torch.int32)
        state[AFFINE] = torch.from_numpy(self.reference.affine.copy())
        text = json.dumps({"protection": described, "digest": self.digest})
        save_state(state, path, {"polyclinic": text})

    def protect(self, volume: MetaTensor) -> Protected:
        """Warp a scan with a key that is used for no other scan.

        Args:
            volume: (1, X, Y, Z), a brain without skull, with its affine.

        Raises:
            ScanNotRecognized: The reference does not fit the scan.
            RunError: Five keys in a row would have folded the image.
            ModelInvalid: The generator leaves the scan almost as it is; nothing may be sent.
        """
        protected = self.warp(volume)
        _check(protected.change)
        return protected

    def warp(self, volume: MetaTensor) -> Protected:
        """Warp as `protect` does, for what stays here: it may be that nothing is hidden.

        Raises:
            ScanNotRecognized, RunError: As `protect` does.
        """
        canonical = canonicalize(volume, self.reference)
        image = coarse_image(canonical)
        for attempt in range(TRIES):
            seed = self._seed(volume, attempt)
            ddf, inverse = draw_deformation(self.field, image, seed)
            if float(jacobian_determinant(ddf).min()) > 0:
                proxy = canonical.image(upsample(ddf, self.shape))
                change = _measure(ddf, image, proxy, canonical)
                return Protected(canonical, quantize(proxy), change, ddf, inverse)
        raise RunError(
            f"All {TRIES} deformations that were drawn fold the image: the generator cannot be "
            "used. Train it with more smoothness."
        )

    def _seed(self, volume: MetaTensor, attempt: int) -> int:
        if self.secret is None:
            return draw_seed()
        return seed_of(volume, self.secret, attempt, self.patient)


def _measure(ddf: Tensor, image: Tensor, proxy: Tensor, canonical: Canonical) -> Change:
    head = image[0, 0] > 0
    moved = IMAGE_MM * ddf[0][:, head]
    lengths = (moved - moved.mean(1, keepdim=True)).norm(dim=0)
    median, most = (float(lengths.quantile(share)) for share in (0.5, 0.95))
    original = canonical.image(torch.zeros(1, 3, *proxy.shape))
    difference = float((proxy - original).abs()[(original > 0) | (proxy > 0)].mean())
    return Change(median, most, difference)


def _check(change: Change) -> None:
    """Refuse a proxy that is almost the scan: a generator may be damaged, or made to spy."""
    enough = (
        change.median_mm >= LEAST_MEDIAN_MM
        and change.p95_mm >= LEAST_P95_MM
        and change.difference >= LEAST_CHANGE
    )
    if not enough:
        raise ModelInvalid(
            f"By the generator this scan is {change}; at least {LEAST_MEDIAN_MM:g} mm, "
            f"{LEAST_P95_MM:g} mm and {LEAST_CHANGE:g} are needed to hide it: nothing was sent. "
            "Ask the coordinator for a generator that is trained."
        )


def draw_deformation(field: Field, image: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return the deformation by a key.

    Args:
        field: The generator.
        image: (1, 1, h, w, d), canonical, with voxels of `IMAGE_MM`.
        seed: The key.

    Returns:
        The ddf and its inverse, each (1, 3, h, w, d) in voxels of the image's grid.
    """
    height, width, depth = image.shape[2:]
    shape: Shape = (height, width, depth)
    half: Shape = (height // 2, width // 2, depth // 2)
    with torch.inference_mode():
        velocity = field(image, draw_keys(1, half, torch.Generator().manual_seed(seed)))
        return displace(velocity, shape), displace(-velocity, shape)


def coarse_image(canonical: Canonical) -> Tensor:
    """Read a scan with voxels of `IMAGE_MM`: (1, 1, h, w, d)."""
    times = _spacing(canonical.reference) / FINEST_MM
    fine = [round(size * times) for size in canonical.reference.shape]
    read = canonical.image(torch.zeros(1, 3, *fine))
    return shrink(read[None, None], round(IMAGE_MM / FINEST_MM))


def coarse_reference(reference: Reference) -> Tensor:
    """Return the reference with voxels of `IMAGE_MM`: (h, w, d)."""
    return shrink(reference.image[None, None], round(IMAGE_MM / _spacing(reference)))[0, 0]


def quantize(image: Tensor) -> NDArray[np.uint8]:
    """Map [0, 1] to 0 .. 255."""
    return np.asarray((image.clamp(0, 1) * TOP).round().to(torch.uint8).numpy())


def _spacing(reference: Reference) -> float:
    return float(np.linalg.norm(reference.affine[:3, 0]))
