"""Export of a run's model: polyclinic's own file, a MONAI bundle, or what a method exports to."""

import shutil
from pathlib import Path

from polyclinic.errors import RunError, UnknownName
from polyclinic.federation.method import methods
from polyclinic.federation.run_folder import RunFolder
from polyclinic.learning.bundles.write import write_bundle
from polyclinic.learning.state_dict import load_metadata, load_state
from polyclinic.system.durable import replacing
from polyclinic.system.plugins import resolve

BEST = "best.safetensors"  # beside a strategy's last model
BUNDLE = "bundle"


def choose_model(folder: RunFolder, strategy: str | None, *, best: bool = False) -> Path:
    """Return the path of a strategy's model in a run.

    Args:
        folder: Folder of the run.
        strategy: Name of the strategy; None if the run has only one.
        best: Whether the round that validated best is wanted, and not the last one.

    Raises:
        UnknownName: The run has no such strategy.
        RunError: The run has several strategies and none is chosen, or it has no model, or none
            of a best round.
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
    if best and not (chosen := chosen.with_name(BEST)).exists():
        raise RunError(
            f"{chosen.parent.name} of run {folder.name} keeps no best round: only averaging of "
            "whole models does. Export the last round, without --best."
        )
    return chosen


def is_bundle(to: Path) -> bool:
    """Tell whether a name asks for a MONAI bundle: it is `bundle`, or ends in `.bundle`."""
    return to.name == BUNDLE or to.suffix == f".{BUNDLE}"


def export_model(source: Path, to: Path) -> list[str]:
    """Write a model's file for others, whole or not at all.

    Args:
        source: A safetensors file that polyclinic wrote.
        to: File to write. NAME.bundle makes a folder, a MONAI bundle. A suffix that an installed
            method exports to (.pt2: a universal encoder as a program for torch alone) makes its
            file; any other a copy of the source.

    Returns:
        Lines of Python that load the program; none if the file is a copy.

    Raises:
        ModelInvalid: The source is damaged, or polyclinic did not write it.
        ConfigError: The source cannot be exported to a file with this suffix, or as a bundle.
        DiskFull: No room.
    """
    if is_bundle(to):
        write_bundle(source, to)
        return []
    with replacing(to, durable=False) as unfinished:
        for method in methods().values():
            if to.suffix in method.exports:
                write = resolve(method.exports[to.suffix])
                lines: list[str] = write(source, unfinished, to.name)
                return lines
        load_metadata(load_state(source)[1], source)
        shutil.copyfile(source, unfinished)
    return []
