"""An optimizer's moments, and the scale of float16 losses, kept from round to round in files.

They are kept for two rounds: a round that is asked for again starts as it did before, and a process
that is started again goes on with the same numbers.
"""

import io
import logging
from pathlib import Path

import torch

from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.system.durable import write_durably
from polyclinic.system.text import first_line

PREFIX = "moments-"
log = logging.getLogger("polyclinic.learning.optimizing.moments")


class Moments:
    """The files of one training.

    Args:
        folder: Of a run's strategy; another run starts anew.
        number: Number of the round, from 1.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number

    def take_up(self, stepper: Stepper) -> None:
        """Give an optimizer the moments that it had after the last round before this one.

        What scales losses gets its scale likewise. A file that cannot be read, or is of another
        optimizer, counts as none.
        """
        optimizer, scaler = stepper.optimizer, stepper.scaler
        before = [number for number in self._rounds() if number < self._number]
        if not before:
            return
        path, fresh = self._file(max(before)), optimizer.state_dict()
        try:
            kept = torch.load(path, weights_only=True)
            optimizer.load_state_dict(kept["optimizer"])
            _check_shapes(optimizer)
            if kept["scaler"] and scaler.is_enabled():
                scaler.load_state_dict(kept["scaler"])
        except Exception as error:  # a damaged file raises many kinds
            log.warning("%s does not fit and is left out: %s", path, first_line(error))
            optimizer.load_state_dict(fresh)

    def keep(self, stepper: Stepper) -> None:
        """Keep moments and scale after this round, and remove those of two rounds before.

        Raises:
            DiskFull: No room.
        """
        content = io.BytesIO()
        kept = {
            "optimizer": stepper.optimizer.state_dict(),
            "scaler": stepper.scaler.state_dict(),
        }
        torch.save(kept, content)
        write_durably(self._file(self._number), content.getvalue())
        for number in self._rounds():
            if number < self._number - 1:
                self._file(number).unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self._folder / f"{PREFIX}{number}.pt"

    def _rounds(self) -> list[int]:
        return [int(path.stem.removeprefix(PREFIX)) for path in self._folder.glob(f"{PREFIX}*.pt")]


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Refuse moments of other weights: torch itself does not look at shapes."""
    for weight, kept in optimizer.state.items():
        for value in dict(kept).values():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != weight.shape:
                raise ValueError("moments of other weights")
