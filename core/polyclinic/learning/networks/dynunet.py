"""MONAI's DynUNet, built from a patch and a voxel size: the network of a plan.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z; with residual blocks in the encoder
and decoder as in Isensee et al. 2024, https://arxiv.org/abs/2404.09556.
"""

from collections.abc import Sequence
from typing import Any

from monai.networks.nets import DynUNet
from torch import Tensor

from polyclinic.learning.networks.topology import MOST_STAGES, plan_topology


def dynunet_arguments(
    patch: Sequence[int],
    spacing_mm: Sequence[float] | None,
    in_channels: int,
    out_channels: int,
    *,
    features: int = 32,
    most_features: int = 320,
    residual: bool = False,
) -> dict[str, Any]:
    """Return the arguments of MONAI's DynUNet, without those of deep supervision.

    Args:
        patch: As for `PlannedUNet`, and so are the others.
    """
    voxel = tuple(spacing_mm or (1.0,) * len(patch))[: len(patch)]
    topology = plan_topology(patch, voxel)
    kernels, strides = topology.kernels[:MOST_STAGES], topology.strides[:MOST_STAGES]
    return {
        "spatial_dims": len(patch),
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": kernels,
        "strides": strides,
        "upsample_kernel_size": strides[1:],
        "filters": [min(features * 2**stage, most_features) for stage in range(len(kernels))],
        "norm_name": ("INSTANCE", {"affine": True}),
        "act_name": ("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        "res_block": residual,
    }


def most_heads(stages: int) -> int:
    """Return how many stages of the way up are judged; the lowest two are not."""
    return max(0, stages - 3)


class PlannedUNet(DynUNet):  # type: ignore[misc]
    """U-Net whose depth, strides and kernels follow from patch and voxel size.

    While it trains with `deep_supervision` it returns a list of logits, the full size first, each
    of the next half as large; else the logits alone.
    """

    def __init__(
        self,
        patch: Sequence[int],
        spacing_mm: Sequence[float] | None,
        in_channels: int,
        out_channels: int,
        features: int = 32,
        most_features: int = 320,
        residual: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        """Build the network.

        Args:
            patch: Voxels along each axis; two numbers make it 2-D.
            spacing_mm: Size of a voxel in mm, three numbers; None counts as equal on all axes.
            in_channels: Number of the image's channels.
            out_channels: Number of classes or regions.
            features: Number of features of the first stage; each further stage has twice as many.
            most_features: The most features of a stage.
            residual: Whether blocks have a path around them.
            deep_supervision: Whether lower stages are trained on the labels, too.
        """
        arguments = dynunet_arguments(
            patch,
            spacing_mm,
            in_channels,
            out_channels,
            features=features,
            most_features=most_features,
            residual=residual,
        )
        heads = most_heads(len(arguments["filters"]))
        self._several = deep_supervision and heads > 0
        super().__init__(**arguments, deep_supervision=self._several, deep_supr_num=max(1, heads))
        del self.skip_layers  # holds every block a second time

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Compute logits of an image of shape BCHWD, or BCHW in 2-D."""
        kept = [self.input_block(image)]
        for block in self.downsamples:
            kept.append(block(kept[-1]))
        features = self.bottleneck(kept[-1])
        judged = []
        for block, skipped in zip(self.upsamples, reversed(kept), strict=True):
            features = block(features, skipped)
            judged.append(features)
        logits: Tensor = self.output_block(features)
        if not (self.training and self._several):
            return logits
        heads = self.deep_supervision_heads
        lower = reversed(judged[-1 - len(heads) : -1])
        return [logits, *(head(each) for head, each in zip(heads, lower, strict=True))]
