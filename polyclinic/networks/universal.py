"""The universal model's network: an encoder that all hospitals share, and a head that is each hospital's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.networks.encoders import Encoder, embed

ENCODER = "encoder."  # what travels is called so


@dataclass(frozen=True)
class Task:
    """What a hospital declares of its task: nothing about its classes but how many there are.

    Attributes:
        kind: segmentation or classification.
        classes: How many, at least 2; of a segmentation the background is one.
        channels: Of its images.
        dimensions: 2 or 3, of its images; a 2-D encoder reads volumes slice by slice.
    """

    kind: Literal["segmentation", "classification"]
    classes: int
    channels: int
    dimensions: int

    def __str__(self) -> str:
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return f"{self.kind}, {self.classes} classes, {channels}, {self.dimensions}-D"


class UniversalNetwork(nn.Module):
    """Encoder and head; without a head it returns embeddings.

    Tensors under `encoder.` are shared, everything else (`stem`, `head`) belongs to a hospital's task and stays there. The head is linear:
    on the embedding for a classification, on the maps at every place for a segmentation.
    """

    def __init__(self, encoder: dict[str, Any] | Encoder) -> None:
        """Build it without a head.

        Args:
            encoder: One of `polyclinic.networks.encoders`, or a node of conf/ that names it.
        """
        from polyclinic.config import instantiate

        super().__init__()
        self.encoder: Encoder = instantiate(encoder) if isinstance(encoder, dict) else encoder
        self.task: Task | None = None
        self.stem: nn.Module = nn.Identity()
        self.head: nn.Module | None = None

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.encoder.size)

    def attach_head(self, task: Task) -> None:
        """Give it the head of a task, with random weights, and where its images have other channels than the encoder a stem too."""
        convolution = nn.Conv2d if self.spatial_dims == 2 else nn.Conv3d
        numbers, wanted = sum(self.encoder.widths), self.encoder.in_channels
        self.task = task
        self.stem = nn.Identity() if task.channels in (1, wanted) else convolution(task.channels, wanted, 1)
        self.head = nn.Linear(numbers, task.classes) if task.kind == "classification" else convolution(numbers, task.classes, 1)
        self.to(next(self.encoder.parameters()).device)

    def maps(self, image: Float[Tensor, "batch channels *size"]) -> list[Tensor]:
        """The encoder's maps of an image of the task's channels; one channel is repeated."""
        image = self.stem(image)
        if image.shape[1] == 1 < self.encoder.in_channels:
            image = image.expand(-1, self.encoder.in_channels, *(-1 for _ in self.encoder.size))
        return self.encoder(image)  # type: ignore[no-any-return]

    def forward(self, image: Float[Tensor, "batch channels *size"]) -> Tensor:
        """Logits: (batch, classes), or (batch, classes, *size) for a segmentation; without a head, embeddings."""
        maps = self.maps(image)
        if self.head is None:
            return embed(maps)
        if isinstance(self.head, nn.Linear):
            return self.head(embed(maps))  # type: ignore[no-any-return]
        return self._read_out(maps, image.shape[2:])

    def _read_out(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """The linear head at every place: on each map by itself and then enlarged, which is the same and cheaper than the other way."""
        head = self.head
        assert isinstance(head, nn.Conv2d | nn.Conv3d) and head.bias is not None
        convolve = functional.conv2d if self.spatial_dims == 2 else functional.conv3d
        mode = "bilinear" if self.spatial_dims == 2 else "trilinear"
        total = head.bias.view(1, -1, *(1 for _ in size))
        for features, weight in zip(maps, torch.split(head.weight, list(self.encoder.widths), 1), strict=True):
            total = total + functional.interpolate(convolve(features, weight), size=tuple(size), mode=mode, align_corners=False)
        return total
