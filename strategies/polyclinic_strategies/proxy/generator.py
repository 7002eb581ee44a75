"""Fields that hide the identity of a patient: from an image and a key to a velocity.

Three share one interface: `LearnedField` (a network), `RandomField` (the key alone, the baseline)
and `NoField` (the original). They read an image with voxels of 4 mm, and return a velocity with
voxels of 8 mm: the shapes by which people differ are that coarse.

A **key** is a smooth random velocity: white noise under a Gaussian of one voxel. A learned field is
trained (`training.py`) so that the proxy looks like the reference warped by the key, a stranger
that exists only by the key. It therefore has to remove the patient's own shape before it adds the
key's; a random field only adds. That goal is ours; the adversary is that of Kim et al. 2020,
https://arxiv.org/abs/2011.12835.
"""

import hashlib
import secrets
from typing import Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.imaging.deformation import exponentiate, upsample, warp
from polyclinic.imaging.smoothing import smooth
from polyclinic.security.secret import Secret
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator

IMAGE_MM, VELOCITY_MM = 4.0, 8.0
KEY_SMOOTHNESS = 1.0  # sigma in voxels of the velocity's grid
# root mean square of a key's velocity; after an affine registration, brains of different people
# differ by 3 to 5 mm
STRANGER_MM = 6.0
SQUARINGS = 6

Shape = tuple[int, int, int]


class Field(Protocol):
    """Function from an image and a key to a velocity."""

    def __call__(self, image: Tensor, key: Tensor) -> Tensor:
        """Return the velocity.

        Args:
            image: (B, 1, h, w, d), canonical, with voxels of `IMAGE_MM`.
            key: (B, 3, h/2, w/2, d/2), from `draw_keys`.

        Returns:
            (B, 3, h/2, w/2, d/2), in voxels of `VELOCITY_MM`.
        """


class LearnedField(nn.Module):
    """A trained generator, which also reads the reference that images are aligned to.

    Args:
        reference: (h, w, d), with voxels of `IMAGE_MM`.
        network: The network; by default with `FlowGenerator`'s own settings.
    """

    def __init__(self, reference: Tensor, network: FlowGenerator | None = None) -> None:
        super().__init__()
        self.network = network or FlowGenerator()
        self.reference: Tensor
        self.register_buffer("reference", reference[None, None].float(), persistent=False)

    def forward(self, image: Tensor, key: Tensor) -> Tensor:
        """Return the velocity, as `Field` describes it."""
        velocity: Tensor = self.network(torch.cat([image, self.reference.expand_as(image)], 1), key)
        return velocity


class RandomField(nn.Module):
    """The key itself, whatever the image.

    Args:
        strength_mm: Root mean square of the velocity; that of the displacement on a finer grid is a
            tenth to a sixth smaller.
        smoothness: Sigma of a further Gaussian, in voxels of the velocity's grid.
    """

    def __init__(self, strength_mm: float, smoothness: float = 0.0) -> None:
        super().__init__()
        self.strength_mm, self.smoothness = strength_mm, smoothness

    def forward(self, _image: Tensor, key: Tensor) -> Tensor:
        """Return the velocity, as `Field` describes it."""
        return _scale(smooth(key, self.smoothness), self.strength_mm)


class NoField(nn.Module):
    """The zero velocity."""

    def forward(self, _image: Tensor, key: Tensor) -> Tensor:
        """Return the velocity, as `Field` describes it."""
        return torch.zeros_like(key)


def draw_seed() -> int:
    """Draw the 63-bit seed of a key from the operating system's source of randomness.

    It is for one image, and never kept.
    """
    return secrets.randbits(63)


def seed_of(volume: MetaTensor, secret: Secret, attempt: int, patient: str = "") -> int:
    """Return the 63-bit seed of a scan's key: the same for the same voxels at the same place.

    Args:
        volume: (1, X, Y, Z), with its affine.
        secret: The hospital's.
        attempt: Number of keys before it that cannot be used.
        patient: If given, the seed follows from it and not from the scan.
    """
    if patient:
        named = f"proxy {attempt} of patient {patient}".encode()
    else:
        voxels = volume.as_tensor().to(torch.float32).contiguous().numpy()
        affine = np.ascontiguousarray(volume.affine.numpy(), dtype=np.float64)
        scan = hashlib.sha256(voxels).digest()
        named = f"proxy {attempt} {voxels.shape} ".encode() + affine.tobytes() + scan
    return int.from_bytes(secret.sign(named)[:8], "big") >> 1


def draw_keys(number: int, shape: Shape, generator: torch.Generator) -> Tensor:
    """Draw keys.

    Args:
        number: Number of keys.
        shape: Shape of the velocity's grid.
        generator: Determines the keys.

    Returns:
        (number, 3, *shape), in voxels of `VELOCITY_MM`, of `STRANGER_MM` root mean square each.
    """
    noise = torch.randn((number, 3, *shape), generator=generator)
    return _scale(smooth(noise, KEY_SMOOTHNESS), STRANGER_MM)


def displace(velocity: Tensor, shape: Shape | None = None) -> Tensor:
    """Integrate a velocity, on a finer grid of the same box if wanted.

    Args:
        velocity: (B, 3, h, w, d), in voxels of its grid. Its negative gives the inverse.
        shape: Shape of the grid on which it is integrated; by default its own.

    Returns:
        (B, 3, *shape), a ddf in voxels of that grid.
    """
    return exponentiate(velocity if shape is None else upsample(velocity, shape), SQUARINGS)


def warp_coarsely(volumes: Tensor, velocity: Tensor) -> Tensor:
    """Warp volumes whose grid is finer than the velocity's.

    This is fast, and differentiable in both arguments.
    """
    return warp(volumes, upsample(displace(velocity), volumes.shape[2:]))


def shrink(volumes: Tensor, times: int) -> Tensor:
    """Average blocks of voxels: (B, C, H, W, D) -> (B, C, H/times, ...)."""
    return functional.avg_pool3d(volumes, times)


def _scale(velocity: Tensor, strength_mm: float) -> Tensor:
    rms = velocity.square().sum(1, keepdim=True).mean((2, 3, 4), keepdim=True).sqrt()
    return velocity * (strength_mm / VELOCITY_MM / rms)
