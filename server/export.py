"""Which file of weights a run's model is."""

from pathlib import Path

from polyclinic.errors import RunError, UnknownName
from server.run_folder import RunFolder


def choose_model(folder: RunFolder, strategy: str | None) -> Path:
    """The model of a run's strategy.

    Raises:
        UnknownName: The run has no such strategy.
        RunError: Several strategies and none chosen, or no model of the coordinator's.
    """
    files = {path.parent.name: path for path in sorted((folder.path / "arms").glob("*/model.safetensors"))}
    if strategy is not None:
        strategy = strategy.rpartition("/")[2]
        if strategy not in files:
            raise UnknownName("strategy in this run", strategy, list(files))
    elif len(files) > 1:
        raise RunError(f"Run {folder.name} compared {', '.join(files)}: choose one with --strategy.")
    elif not files:
        raise RunError(f"Run {folder.name} has no model yet: its first round has not ended.")
    chosen = files[strategy] if strategy else next(iter(files.values()))
    if chosen.parent.name == "local":
        raise RunError("'local' shares nothing, so the coordinator has no model of it: every hospital keeps its own, in its state folder.")
    return chosen
