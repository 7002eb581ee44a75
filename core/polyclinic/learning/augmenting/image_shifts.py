"""Generated shifts of images: as another scanner or protocol might have made them.

Contrast, bias field, blur, resolution and noise of one sample are drawn anew each time. Air (what
is exactly 0) stays air, and each channel keeps the mean and the standard deviation that it had
inside. Shifts of features are in `polyclinic.learning.augmenting.feature_shifts`.

Kitrungrotsakul et al. train local models on generated shifts; the paper leaves open which, so these
are our reading of it.
"""

import torch
from jaxtyping import Float
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandLambda,
    RandSimulateLowResolution,
)
from torch import Tensor

from polyclinic.config.schemas import ShiftsConfig
from polyclinic.imaging.foreground import foreground

GAMMA = (0.5, 2.0)
BIAS = (-0.3, 0.3)  # coefficients of a polynomial of degree 3, the logarithm of the field
BLUR = (0.5, 1.5)  # standard deviation in voxels
ZOOM = (0.5, 1.0)  # share of the voxels that are left along each axis
NOISE = 0.1  # largest standard deviation, as a share of the range of intensities
EPSILON = 1e-6


class ImageShifts:
    """Shifts images at random.

    Equal seeds shift equal images equally, and one kind's draws do not depend on the other kinds.
    """

    def __init__(self, shifts: ShiftsConfig, spatial_dims: int, seed: int) -> None:
        """Prepare the shifts.

        Args:
            shifts: Chance of each kind.
            spatial_dims: 2 or 3.
            seed: Seed of what is drawn.
        """
        self.spatial_dims = spatial_dims
        chances = (
            shifts.inversion,
            shifts.gamma,
            shifts.bias_field,
            shifts.blur,
            shifts.resolution,
            shifts.noise,
        )
        self.active = any(chance > 0 for chance in chances)
        linear = "bilinear" if spatial_dims == 2 else "trilinear"
        # in the order in which an image is made: tissue, coil, optics, grid, receiver
        kinds = [
            RandLambda(_invert, prob=shifts.inversion, track_meta=False),
            RandAdjustContrast(shifts.gamma, GAMMA),
            RandBiasField(coeff_range=BIAS, prob=shifts.bias_field),
            RandGaussianSmooth(BLUR, BLUR, BLUR, prob=shifts.blur),
            RandSimulateLowResolution(shifts.resolution, upsample_mode=linear, zoom_range=ZOOM),
            RandGaussianNoise(shifts.noise, std=NOISE),
        ]
        self._chain = Compose(kinds)
        self.set_seed(seed)

    def set_seed(self, seed: int) -> None:
        """Let what is drawn from now on follow from a seed."""
        if self.active:
            self._chain.set_random_state(seed=seed)

    def __call__(
        self, image: Float[Tensor, "channels *places"]
    ) -> Float[Tensor, "channels *places"]:
        """Shift one image.

        Args:
            image: Left unchanged.

        Returns:
            A new image, or the same one if nothing was drawn: air as it was, the rest with each
                channel's mean and deviation as before.

        Raises:
            ValueError: Not channels and `spatial_dims` axes.
        """
        if image.ndim != self.spatial_dims + 1:
            raise ValueError(
                f"shape {tuple(image.shape)}: channels and {self.spatial_dims} axes are needed"
            )
        if not self.active:
            return image
        inside = foreground(image)[None]
        mean, deviation = _moments_inside(image, inside)
        whole = torch.where(
            inside, image, mean
        )  # tissue beside air is neither darkened nor brightened by it
        low, high = (
            pick(whole.flatten(1), 1).reshape(mean.shape) for pick in (torch.amin, torch.amax)
        )
        unit = (whole - low) / (high - low).clamp(min=EPSILON)  # 0 .. 1, as a bias field multiplies
        shifted = torch.as_tensor(self._chain(unit)).as_subclass(Tensor)
        if torch.equal(shifted, unit):
            return image
        new_mean, new_deviation = _moments_inside(shifted, inside)
        restored = (shifted - new_mean) * (deviation / new_deviation.clamp(min=EPSILON)) + mean
        return torch.where(inside, restored, image)


def _invert(image: Tensor) -> Tensor:
    return 1 - image


def _moments_inside(image: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of each channel `inside`, with the image's axes."""
    axes = tuple(range(1, image.ndim))
    count = inside.sum(axes, keepdim=True).clamp(min=1)
    mean = torch.where(inside, image, 0.0).sum(axes, keepdim=True) / count
    square = torch.where(inside, image - mean, 0.0).square().sum(axes, keepdim=True) / count
    return mean, square.sqrt()
