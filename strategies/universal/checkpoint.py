"""What a long training keeps, so that a crash costs a few steps."""

import logging
import os
import pickle
from pathlib import Path

import torch
from torch import nn

EVERY = 50  # steps
log = logging.getLogger("polyclinic.universal")


class Checkpoint:
    """Networks, optimizer and losses in one file.

    Args:
        path: The file; None keeps nothing.
        trained: All that is trained.
        optimizer: What trains it.
    """

    def __init__(self, path: Path | None, trained: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._path, self._trained, self._optimizer = path, trained, optimizer

    def resume(self) -> list[float]:
        """Take up what was kept, and return the losses so far; a file that does not fit or cannot be read counts as none."""
        if self._path is None or not self._path.exists():
            return []
        try:
            kept = torch.load(self._path, weights_only=True)
            self._trained.load_state_dict(kept["trained"])
            self._optimizer.load_state_dict(kept["optimizer"])
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            log.warning("%s is of another training and begins anew: %s", self._path, str(error).splitlines()[0])
            return []
        return list(kept["losses"])

    def keep(self, losses: list[float], steps: int) -> None:
        """Keep what there is, every so many steps and at the end."""
        if self._path is None or (len(losses) % EVERY and len(losses) != steps):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.partial")
        torch.save({"trained": self._trained.state_dict(), "optimizer": self._optimizer.state_dict(), "losses": losses}, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self._path)
