"""Network of the universal model: a shared encoder, and a head that is each hospital's own."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.config.compose import instantiate
from polyclinic.learning.modes import bf16_autocast
from polyclinic.learning.site_tasks import SiteTask
from polyclinic_strategies.universal.networks.encoders import Encoder, embed

ENCODER = "encoder."  # what travels is called so


class Head(nn.Module):
    """Linear layer on standardized features.

    It reads the embedding for a classification, and the maps at every place for a segmentation.

    Features are standardized by batch, as in the linear probe of masked autoencoders (He et al.
    2022, https://arxiv.org/abs/2111.06377, appendix A.1): maps whose numbers are small count like
    others, also while the encoder changes.
    """

    def __init__(self, task: SiteTask, widths: Sequence[int], spatial_dims: int) -> None:
        """Build it with small random weights.

        Args:
            task: Task that the head is for.
            widths: Channels of the encoder's maps.
            spatial_dims: 2 or 3, of the maps.
        """
        super().__init__()
        self.dense, self.widths, self.spatial_dims = (
            task.kind == "segmentation",
            list(widths),
            spatial_dims,
        )
        numbers = sum(widths) * (1 if self.dense else 2)
        self.linear = nn.Linear(numbers, task.classes)
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("variance", torch.ones(numbers))
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def calibrate(self, rows: Float[Tensor, "rows numbers"]) -> Float[Tensor, "rows numbers"]:
        """Standardize like these features from now on; return them so."""
        self.mean.copy_(rows.mean(0))
        self.variance.copy_(rows.var(0, correction=0))
        return self._standardize(rows, self.mean, self.variance)

    def read(self, rows: Float[Tensor, "rows numbers"]) -> Float[Tensor, "rows classes"]:
        """Compute logits of embeddings."""
        return self.linear(self._standardize(rows, self.mean, self.variance))  # type: ignore[no-any-return]

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Compute logits: (batch, classes), or (batch, classes, *size) for a segmentation."""
        if not self.dense:
            return self.read(embed(maps))
        convolve = functional.conv2d if self.spatial_dims == 2 else functional.conv3d
        mode = "bilinear" if self.spatial_dims == 2 else "trilinear"
        ones = (1,) * self.spatial_dims
        total = self.linear.bias.view(1, -1, *ones)
        parts = [
            torch.split(each, self.widths, -1)
            for each in (self.linear.weight, self.mean, self.variance)
        ]
        # each map by itself: the same as together, and cheaper
        for features, weight, mean, variance in zip(maps, *parts, strict=True):
            logits = convolve(
                self._standardize(features, mean, variance), weight.reshape(*weight.shape, *ones)
            )
            total = total + functional.interpolate(
                logits, size=tuple(size), mode=mode, align_corners=False
            )
        return total

    def _standardize(self, features: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Standardize by the batch in training, and by the averages of then in evaluation.

        A batch with one value of each number is standardized as in evaluation.
        """
        by_batch = self.training and features.numel() > features.shape[1]
        return functional.batch_norm(features, mean, variance, training=by_batch)


class UniversalNetwork(nn.Module):
    """Encoder and head; without a head it returns embeddings.

    Tensors under `encoder.` are shared, everything else (`stem`, `head`) belongs to a hospital's
    task and stays there.
    """

    def __init__(self, encoder: dict[str, Any] | Encoder) -> None:
        """Build it without a head.

        Args:
            encoder: One of `polyclinic_strategies.universal.networks.encoders`, or a node of conf/
                that names it.
        """
        super().__init__()
        self.encoder: Encoder = instantiate(encoder) if isinstance(encoder, dict) else encoder
        self.task: SiteTask | None = None
        self.stem: nn.Module = nn.Identity()
        self.head: Head | None = None

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.encoder.size)

    def attach_head(self, task: SiteTask) -> None:
        """Give it the head of a task, with random weights.

        Where the task's images have other channels than the encoder, it gets a stem too.
        """
        convolution = nn.Conv2d if self.spatial_dims == 2 else nn.Conv3d
        wanted = self.encoder.in_channels
        self.task = task
        self.stem = (
            nn.Identity() if task.channels in (1, wanted) else convolution(task.channels, wanted, 1)
        )
        self.head = Head(task, self.encoder.widths, self.spatial_dims)
        self.to(next(self.encoder.parameters()).device)

    def maps(self, image: Float[Tensor, "batch channels *size"]) -> list[Tensor]:
        """Compute the maps of an image of the task's channels, float32; one channel is repeated."""
        image = self.stem(image)
        if image.shape[1] == 1 < self.encoder.in_channels:
            image = image.expand(-1, self.encoder.in_channels, *(-1 for _ in self.encoder.size))
        layout = torch.channels_last if self.spatial_dims == 2 else torch.channels_last_3d
        with bf16_autocast(image.device):
            return [
                features.float()
                for features in self.encoder(image.contiguous(memory_format=layout))
            ]

    def forward(self, image: Float[Tensor, "batch channels *size"]) -> Tensor:
        """Compute logits, (batch, classes, ...), or embeddings where there is no head."""
        maps = self.maps(image)
        return embed(maps) if self.head is None else self.head(maps, image.shape[2:])
