"""Checkpoints of a long training.

A crash costs little, and the result is the same, bit for bit, as without it.
"""

import copy
import io
import logging
import pickle
from pathlib import Path

import torch
from torch import nn

from polyclinic.system.durable import write_durably
from polyclinic.system.text import first_line

log = logging.getLogger("polyclinic.learning.optimizing.checkpoint")


class Checkpoint:
    """Networks, optimizer and losses in one file.

    Args:
        path: The file; None keeps nothing.
        trained: All that is trained.
        optimizer: What trains it.
        every: Number of losses between two times that it is kept.
        scaler: What scales losses in float16, if anything does.
    """

    def __init__(
        self,
        path: Path | None,
        trained: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        every: int,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self._path, self._trained, self._optimizer, self._every = path, trained, optimizer, every
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None

    def resume(self) -> list[float]:
        """Load what was kept, and return the losses so far.

        A file that does not fit, or cannot be read, counts as none.
        """
        if self._path is None or not self._path.exists():
            return []
        before = copy.deepcopy(self._trained.state_dict())
        try:
            kept = torch.load(self._path, weights_only=True)
            self._trained.load_state_dict(kept["trained"])
            self._optimizer.load_state_dict(kept["optimizer"])
            if self._scaler is not None:
                self._scaler.load_state_dict(kept["scaler"])
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            self._trained.load_state_dict(before)  # what fitted of it is taken back
            log.warning(
                "%s is of another training and begins anew: %s",
                self._path,
                first_line(error),
            )
            return []
        log.info("going on after %d losses", len(kept["losses"]))
        return list(kept["losses"])

    def keep(self, losses: list[float], wanted: int) -> None:
        """Keep what there is, every so many losses and at the end."""
        if self._path is None or (len(losses) % self._every and len(losses) != wanted):
            return
        content = io.BytesIO()
        kept = {
            "trained": self._trained.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "losses": losses,
        }
        scale = {} if self._scaler is None else {"scaler": self._scaler.state_dict()}
        torch.save({**kept, **scale}, content)
        write_durably(self._path, content.getvalue())
