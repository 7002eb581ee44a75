"""Export of a universal encoder as a program that needs torch and nothing else."""

from pathlib import Path

import torch
from torch import Tensor, nn

from polyclinic.errors import ConfigError
from polyclinic.learning.model_file import load_model
from polyclinic_strategies.universal.networks.network import UniversalNetwork

PROGRAM = ".pt2"  # torch's suffix of exported programs
LARGEST_BATCH = 4096  # upper limit of an exported program's batch


class _Maps(nn.Module):
    """An encoder as a function from a batch to its feature maps, contiguous in memory."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, fine to coarse."""
        return [features.contiguous() for features in self.encoder(images)]


def write_program(source: Path, path: Path, name: str) -> list[str]:
    """Write the encoder of a universal model as a program for torch alone.

    Args:
        source: File of the model.
        path: File to write; the batch of the program's input may have any size up to 4096.
        name: Name of the file for those who load it.

    Returns:
        Lines of Python that load the program.

    Raises:
        ConfigError: The source is no universal model.
        ModelInvalid: The source is damaged.
    """
    network, _ = load_model(source)
    if not isinstance(network, UniversalNetwork):
        raise ConfigError(
            f"{source} is no universal model, and only a universal encoder can be exported to "
            f"{PROGRAM}. Export to a .safetensors file instead."
        )
    encoder = network.encoder
    shape = (encoder.in_channels, *encoder.size)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    program = torch.export.export(
        _Maps(encoder).eval(), (torch.zeros(2, *shape),), dynamic_shapes=({0: batch},)
    )
    with path.open("wb") as file:
        torch.export.save(program, file)
    with torch.inference_mode():
        maps = encoder(torch.zeros(1, *shape))
    found = ", ".join(str(("batch", *features.shape[1:])).replace("'", "") for features in maps)
    given = str(("batch", *shape)).replace("'", "")
    comment = f"float32, {given}, about -1 to 1; gives {len(maps)} maps: {found}"
    return [
        f'encoder = torch.export.load("{name}").module()',
        f"maps = encoder(images)  # {comment}",
    ]
