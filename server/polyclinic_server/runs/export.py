"""Export of a run's model: polyclinic's own file, or a universal encoder for torch alone."""

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from polyclinic.errors import ConfigError, RunError, UnknownName
from polyclinic.federation.run_folder import RunFolder
from polyclinic.learning.model_file import load_model
from polyclinic.learning.site_tasks import SiteHeadNetwork
from polyclinic.learning.state_dict import load_metadata, load_state
from polyclinic.system.durable import replacing

PROGRAM = ".pt2"  # torch's suffix of exported programs
LARGEST_BATCH = 4096  # upper limit of an exported program's batch


def choose_model(folder: RunFolder, strategy: str | None) -> Path:
    """Return the path of a strategy's model in a run.

    Args:
        folder: Folder of the run.
        strategy: Name of the strategy; None if the run has only one.

    Raises:
        UnknownName: The run has no such strategy.
        RunError: The run has several strategies and none is chosen, or it has no model.
    """
    files = {
        path.parent.name: path
        for path in sorted((folder.path / "arms").glob("*/model.safetensors"))
    }
    if strategy is not None:
        strategy = strategy.rpartition("/")[2]
        if strategy not in files:
            raise UnknownName("strategy in this run", strategy, list(files))
    elif len(files) > 1:
        raise RunError(
            f"Run {folder.name} compared {', '.join(files)}: choose one with --strategy."
        )
    elif not files:
        raise RunError(f"Run {folder.name} has no model yet: its first round has not ended.")
    chosen = files[strategy] if strategy else next(iter(files.values()))
    if chosen.parent.name == "local":
        raise RunError(
            "The coordinator has no model of 'local', which shares nothing: every hospital keeps "
            "its own, in its state folder."
        )
    return chosen


def export_model(source: Path, to: Path) -> list[str]:
    """Write a model's file for others, whole or not at all.

    Args:
        source: A safetensors file that polyclinic wrote.
        to: File to write. With the suffix .pt2 it is the encoder, as a program for torch alone;
            else a copy of the source.

    Returns:
        Lines of Python that load the program; none if the file is a copy.

    Raises:
        ModelInvalid: The source is damaged, or polyclinic did not write it.
        ConfigError: The suffix is .pt2, and the source is no universal model.
        DiskFull: No room.
    """
    with replacing(to, durable=False) as unfinished:
        if to.suffix == PROGRAM:
            return _write_program(source, unfinished, to.name)
        load_metadata(load_state(source)[1], source)
        shutil.copyfile(source, unfinished)
    return []


class _Maps(nn.Module):
    """An encoder as a function from a batch to its feature maps, contiguous in memory."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, fine to coarse."""
        return [features.contiguous() for features in self.encoder(images)]


def _write_program(source: Path, path: Path, name: str) -> list[str]:
    """Write the encoder as a program for batches of any size; return lines that load it."""
    network, _ = load_model(source)
    if not isinstance(network, SiteHeadNetwork):
        raise ConfigError(
            f"{source} is no universal model, and only a universal encoder can be exported to "
            f"{PROGRAM}. Export to a .safetensors file instead."
        )
    encoder = network.encoder
    assert isinstance(encoder, nn.Module)
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
