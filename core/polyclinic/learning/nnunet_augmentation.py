"""nnU-Net's augmentation, by MONAI's transforms.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, supplementary note 4.
"""

from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
)


class NnUNetAugmentation(Compose):  # type: ignore[misc]
    """Noise, blur, brightness, contrast, low resolution, gamma and mirroring of one sample."""

    def __init__(self, spatial_dims: int, mirrored_axes: tuple[int, ...] | None = None) -> None:
        """Prepare the transforms.

        Args:
            spatial_dims: 2 or 3.
            mirrored_axes: Axes that may be mirrored; None: all.
        """
        axes = tuple(range(spatial_dims)) if mirrored_axes is None else mirrored_axes
        linear = "bilinear" if spatial_dims == 2 else "trilinear"
        super().__init__(
            [
                RandGaussianNoised(keys="image", prob=0.1, std=0.1),
                RandGaussianSmoothd(keys="image", prob=0.2),
                RandScaleIntensityd(keys="image", prob=0.15, factors=0.25),
                RandSimulateLowResolutiond(
                    keys="image", prob=0.25, upsample_mode=linear, zoom_range=(0.5, 1.0)
                ),
                RandAdjustContrastd(keys="image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
                *(RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=axis) for axis in axes),
            ]
        )
