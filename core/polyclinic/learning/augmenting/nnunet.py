"""nnU-Net's augmentation of one sample, with the ranges and chances of nnU-Net v2.

Rotation and scaling are one interpolation, out of as large a crop as the sample needs. What is
exactly 0 in all channels, the air around a masked image and what lies beyond its border, stays 0,
as a network sees it when it predicts.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, supplementary note 4; the code is
that of nnU-Net 2 and batchgeneratorsv2, https://github.com/MIC-DKFZ/nnUNet.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.transforms import Randomizable, Transform
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

ROTATION, SCALING = 0.2, 0.2  # chances of a sample
NOISE, BLUR, BRIGHTNESS, CONTRAST, COARSENESS = 0.1, 0.2, 0.15, 0.15, 0.25
INVERTED_GAMMA, GAMMA, MIRROR = 0.1, 0.3, 0.5
EACH_CHANNEL = 0.5  # chance of a channel, of blur and low resolution
FLAT, NARROW = 3.0, 1.5  # ratio of the longest to the shortest side of a patch, 3-D and 2-D
EPSILON = 1e-7


class NnUNetAugmentation(Randomizable, Transform):  # type: ignore[misc]
    """Rotation, scaling, noise, blur, brightness, contrast, low resolution, gamma, mirroring."""

    def __init__(self, spatial_dims: int, mirrored_axes: Sequence[int] | None = None) -> None:
        """Prepare the augmentation.

        Args:
            spatial_dims: 2 or 3.
            mirrored_axes: Axes that may be mirrored; None: all.
        """
        self.mirrored_axes = (
            tuple(range(spatial_dims)) if mirrored_axes is None else tuple(mirrored_axes)
        )
        self._linear = "bilinear" if spatial_dims == 2 else "trilinear"
        self._patch: tuple[int, ...] | None = None  # of the next sample, if it was enlarged
        self._motion: Tensor | None = None

    def enlarge(self, patch: tuple[int, ...]) -> tuple[int, ...]:
        """Draw rotation and scale of the next sample; return the voxels that it needs.

        Args:
            patch: Voxels along each axis of what the next call returns.

        Returns:
            Voxels of the crop about the middle of the patch, which the next call is given.
        """
        self._patch, self._motion = tuple(patch), self._draw_motion(patch)
        if self._motion is None:
            return self._patch
        halves = (torch.tensor(patch, dtype=torch.float64) - 1) / 2
        reach = self._motion.abs() @ halves
        return tuple(
            size + 2 * math.ceil(float(half) + 1 - (size - 1) / 2)
            for size, half in zip(patch, reach, strict=True)
        )

    def __call__(self, sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Augment a sample.

        Args:
            sample: `image`, float32, channels first, and `label` of the same axes if there is one;
                of the size that `enlarge` returned, or of a patch if that was not called.

        Returns:
            The same fields, of the patch's size.
        """
        fields = {key: sample[key] for key in ("image", "label") if key in sample}
        if self._patch is None:
            self.enlarge(tuple(fields["image"].shape[1:]))
        assert self._patch is not None
        patch, motion, self._patch, self._motion = self._patch, self._motion, None, None
        if motion is not None:
            fields = self._move(fields, patch, motion)
        fields["image"] = self._shift_intensities(fields["image"], _thin_axis(patch))
        flips = [axis + 1 for axis in self.mirrored_axes if self._chance(MIRROR)]
        return {key: value.flip(flips) if flips else value for key, value in fields.items()}

    def _draw_motion(self, patch: Sequence[int]) -> Tensor | None:
        """Draw the matrix from the patch's voxels to the crop's, both from their middles."""
        turned, scaled = self._chance(ROTATION), self._chance(SCALING)
        if not turned and not scaled:
            return None
        dims, thin = len(patch), _thin_axis(patch)
        found = torch.eye(dims, dtype=torch.float64)
        if turned:
            if dims == 2:
                planes, most = [(0, 1)], 15 if max(patch) > NARROW * min(patch) else 180
            elif thin is None:
                planes, most = [(1, 2), (0, 2), (0, 1)], 30
            else:
                first, second = (axis for axis in range(3) if axis != thin)
                planes, most = [(first, second)], 180
            for plane in planes:
                found = found @ _rotation(dims, plane, math.radians(self._draw(-most, most)))
        if scaled:
            factor = self._about_one(0.7, 1.4)
            scales = [1.0 if axis == thin else factor for axis in range(dims)]
            found = found * torch.tensor(scales, dtype=torch.float64)
        return found

    def _move(
        self, fields: Mapping[str, Tensor], patch: Sequence[int], motion: Tensor
    ) -> dict[str, Tensor]:
        """Interpolate image and label at the moved places of the patch; beyond the crop is 0."""
        sizes = torch.tensor(fields["image"].shape[1:], dtype=torch.float64)
        lengths = torch.tensor(patch, dtype=torch.float64) - 1
        unit = motion * lengths / (sizes - 1).clamp(min=1)[:, None]  # both from -1 to 1
        theta = torch.cat([unit.flip(0, 1), torch.zeros(len(patch), 1)], 1).float()
        grid = affine_grid(theta[None], [1, 1, *patch], align_corners=True)
        return {
            key: grid_sample(
                value[None].float(),
                grid,
                mode="bilinear" if key == "image" else "nearest",
                align_corners=True,
            )[0]
            for key, value in fields.items()
        }

    def _shift_intensities(self, image: Tensor, thin: int | None) -> Tensor:
        air = (image == 0).all(0)
        if self._chance(NOISE):
            generator = torch.Generator().manual_seed(int(self.R.randint(2**31)))
            noise = torch.randn(image.shape, generator=generator)
            image = image.add(noise, alpha=self._draw(0, 0.1))
        if self._chance(BLUR):
            image = self._some_channels(image, self._blur)
        if self._chance(BRIGHTNESS):
            factors = [self._about_one(0.75, 1.25) for _ in image]
            image = image * torch.tensor(factors).view(-1, *(1,) * (image.ndim - 1))
        if self._chance(CONTRAST):
            image = torch.stack([_contrast(each, self._about_one(0.75, 1.25)) for each in image])
        if self._chance(COARSENESS):
            image = self._some_channels(image, lambda each: self._coarsen(each, thin))
        if self._chance(INVERTED_GAMMA):
            image = torch.stack([-_gamma(-each, self._about_one(0.7, 1.5)) for each in image])
        if self._chance(GAMMA):
            image = torch.stack([_gamma(each, self._about_one(0.7, 1.5)) for each in image])
        return image.masked_fill(air, 0.0)

    def _some_channels(self, image: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([change(each) if self._chance(EACH_CHANNEL) else each for each in image])

    def _blur(self, channel: Tensor) -> Tensor:
        kernel = gaussian_1d(torch.tensor(self._draw(0.5, 1.0)), truncated=4.0)
        blurred: Tensor = separable_filtering(channel[None, None], [kernel] * channel.ndim)
        return blurred[0, 0]

    def _coarsen(self, channel: Tensor, thin: int | None) -> Tensor:
        share = self._draw(0.5, 1.0)
        size = [
            length if axis == thin else max(1, round(length * share))
            for axis, length in enumerate(channel.shape)
        ]
        coarse = interpolate(channel[None, None], size, mode="nearest-exact")
        return interpolate(coarse, channel.shape, mode=self._linear)[0, 0]

    def _chance(self, chance: float) -> bool:
        return bool(self.R.random_sample() < chance)

    def _draw(self, low: float, high: float) -> float:
        return float(self.R.uniform(low, high))

    def _about_one(self, low: float, high: float) -> float:
        """Draw a factor, below and above 1 equally often."""
        return self._draw(low, 1) if self._chance(0.5) else self._draw(1, high)


def _thin_axis(patch: Sequence[int]) -> int | None:
    """Return the axis of a 3-D patch that is far shorter than another; None if there is none."""
    if len(patch) != 3 or max(patch) <= FLAT * min(patch):
        return None
    return min(range(3), key=lambda axis: patch[axis])


def _rotation(dims: int, plane: tuple[int, int], angle: float) -> Tensor:
    first, second = plane
    found = torch.eye(dims, dtype=torch.float64)
    found[first, first] = found[second, second] = math.cos(angle)
    found[first, second], found[second, first] = -math.sin(angle), math.sin(angle)
    return found


def _contrast(channel: Tensor, factor: float) -> Tensor:
    """Stretch intensities about their mean, within the range that they had."""
    mean = channel.mean()
    return ((channel - mean) * factor + mean).clamp(channel.min(), channel.max())


def _gamma(channel: Tensor, exponent: float) -> Tensor:
    """Raise intensities, as shares of their range, to a power; keep mean and deviation."""
    low, mean, deviation = channel.min(), channel.mean(), channel.std()
    extent = (channel.max() - low).clamp(min=EPSILON)
    bent = ((channel - low) / extent).pow(exponent)
    return (bent - bent.mean()) * (deviation / bent.std().clamp(min=EPSILON)) + mean
