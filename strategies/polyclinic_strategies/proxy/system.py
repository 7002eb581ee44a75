"""The three networks of the deformation proxy in one module.

So they are trained, averaged and saved together.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from polyclinic_strategies.proxy.frame.atlas import BOX_MM, Reference, icbm152_reference
from polyclinic_strategies.proxy.generator import Field, LearnedField, Shape
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator
from polyclinic_strategies.proxy.networks.identity import IdentityNetwork
from polyclinic_strategies.proxy.protection import Protection, coarse_reference


class ProxySystem(nn.Module):
    """Generator, segmenter and adversary over the ICBM152 reference.

    Args:
        segmenter: Network with one input channel and one output channel for each class.
        classes: Number of classes, including the background.
        channels, smoothness, bound: Settings of the generator, see `FlowGenerator`.
        spacing_mm: Voxel size of the reference, and so of proxies.
        field: Another generator, for comparison; it is not trained.
        box_mm: Edges of the box around the reference's middle; a small one is for quick trials.
    """

    def __init__(
        self,
        segmenter: nn.Module,
        classes: int,
        channels: Sequence[int] = (24, 32, 48),
        smoothness: float = 0.8,
        bound: float = 4.0,
        spacing_mm: float = 1.0,
        field: Field | None = None,
        box_mm: Sequence[float] = BOX_MM,
    ) -> None:
        super().__init__()
        first, second, third = channels
        self.spacing_mm = spacing_mm
        self.classes = classes
        right, front, up = box_mm
        self.box_mm = (right, front, up)
        coarse = coarse_reference(self.frame)
        height, width, depth = coarse.shape
        self.coarse: Shape = (height, width, depth)
        self.field: Field = field or LearnedField(
            coarse, FlowGenerator((first, second, third), smoothness, bound)
        )
        self.segmenter = segmenter
        # its inputs are the proxy and the foreground of its segmentation
        self.adversary = IdentityNetwork(self.coarse, inputs=classes)

    @property
    def reference(self) -> Tensor:
        """Reference image, (1, 1, h, w, d), with voxels of 4 mm."""
        return coarse_reference(self.frame)[None, None]

    @property
    def frame(self) -> Reference:
        """Brain and grid that scans are brought to."""
        return icbm152_reference(self.spacing_mm, self.box_mm)

    def forward(self, proxy: Tensor) -> Tensor:
        """Segment proxies: (B, 1, H, W, D) in [0, 1] to logits (B, classes, H, W, D)."""
        logits: Tensor = self.segmenter(proxy)
        return logits

    def protection(self, labels: tuple[str, ...]) -> Protection:
        """Return the part for clients: the generator and the reference.

        Raises:
            TypeError: The field is not a learned one.
        """
        if not isinstance(self.field, LearnedField):
            raise TypeError("only a learned field is given to clients")
        return Protection(self.field, self.frame, labels)


def generator_parameters(system: ProxySystem) -> list[nn.Parameter]:
    """Return the parameters that the generator's optimizer changes."""
    return list(system.field.parameters()) if isinstance(system.field, nn.Module) else []
