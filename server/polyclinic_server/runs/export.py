"""A run's model as one file: polyclinic's own, or a universal encoder alone for plain torch."""

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from polyclinic.errors import ConfigError, RunError, UnknownName
from polyclinic.federation.run_folder import RunFolder
from polyclinic.learning.model_file import load_model
from polyclinic.learning.state_dict import load_metadata, load_state
from polyclinic_strategies.universal.networks.network import UniversalNetwork

PROGRAM = ".pt2"  # torch's own ending for an exported program
LARGEST_BATCH = 4096


def choose_model(folder: RunFolder, strategy: str | None) -> Path:
    """The model of a run's strategy.

    Raises:
        UnknownName: The run has no such strategy.
        RunError: Several strategies and none chosen, or no model of the coordinator's.
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
            "'local' shares nothing, so the coordinator has no model of it: every hospital keeps its own, in its state folder."
        )
    return chosen


def export_model(source: Path, to: Path) -> list[str]:
    """Write a model's file for others, whole or not at all.

    Args:
        source: A safetensors file of polyclinic's.
        to: Ends in .pt2: the encoder alone, as a program for plain torch; else a copy of the source.

    Returns:
        Lines of Python that load it, if it is a program.

    Raises:
        ModelInvalid: The source is damaged, or not of polyclinic's.
        ConfigError: A program is wanted of something that is no universal model.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.stem}.{os.getpid()}.partial{to.suffix}")
    try:
        if to.suffix == PROGRAM:
            example = _write_program(source, partial, to.name)
        else:
            load_metadata(load_state(source)[1], source)
            shutil.copyfile(source, partial)
            example = []
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)
    return example


class _Maps(nn.Module):
    """An encoder as a plain function of a batch: its maps, contiguous."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> list[Tensor]:
        """Fine to coarse."""
        return [features.contiguous() for features in self.encoder(images)]


def _write_program(source: Path, path: Path, name: str) -> list[str]:
    """The encoder for batches of any size; returns the lines that load it."""
    network, _ = load_model(source)
    if not isinstance(network, UniversalNetwork):
        raise ConfigError(
            f"{source}: no universal model, only an encoder's program can be written. Export to a .safetensors file instead."
        )
    encoder = network.encoder
    shape = (encoder.in_channels, *encoder.size)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    program = torch.export.export(
        _Maps(encoder).eval(), (torch.zeros(2, *shape),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)
    with torch.inference_mode():
        maps = encoder(torch.zeros(1, *shape))
    found = ", ".join(str(("batch", *features.shape[1:])).replace("'", "") for features in maps)
    given = str(("batch", *shape)).replace("'", "")
    return [
        f'encoder = torch.export.load("{name}").module()',
        f"maps = encoder(images)  # float32, {given}, about -1 to 1; gives {len(maps)} maps: {found}",
    ]
