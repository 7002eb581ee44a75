"""The round that validated best, kept beside the last one: `polyclinic.reporting.best_round`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from polyclinic.config.schemas import Count
from polyclinic.config.validation import validate
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.federation.events import Answered, Event
from polyclinic.learning.state_dict import StateDict, load_metadata, load_state, save_state
from polyclinic.reporting.best_round import RoundScore, score_round

FILE = "best.safetensors"


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Told:
    """What the file of a best round says of it.

    Attributes:
        round: Number of the round.
        score: Mean validation score over the hospitals.
        hospitals: Number of hospitals that scored.
    """

    round: Count
    score: Annotated[float, Field(allow_inf_nan=False)]
    hospitals: Count


class BestRound:
    """Listens to validation scores, and keeps the best round's weights in a file.

    Args:
        folder: Of a strategy in a run; an earlier attempt's best round counts.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._best = read_best(self._path)
        self._scores: dict[int, dict[str, float]] = {}

    def listen(self, event: Event) -> None:
        """Take note of a hospital's validation score."""
        if isinstance(event, Answered) and event.phase == "evaluate" and event.score is not None:
            self._scores.setdefault(event.round, {})[event.site] = event.score

    def offer(self, number: int, state: StateDict, described: Mapping[str, object]) -> None:
        """Keep a round's weights if it validated better than all before.

        Args:
            number: Number of the round; its scores are in.
            state: The model's weights.
            described: Metadata of the model's file.

        Raises:
            DiskFull: No room.
        """
        found = score_round(number, self._scores.pop(number, {}))
        if found is None or not found.beats(self._best):
            return
        told = {**described, "score": found.score, "hospitals": found.hospitals}
        save_state(state, self._path, {"polyclinic": json.dumps(told)})
        self._best = found


def read_best(path: Path) -> RoundScore | None:
    """Read which round a file is of; None where there is none, or it is damaged."""
    if not path.exists():
        return None
    try:
        told = validate(Told, load_metadata(load_state(path)[1], path))
        return RoundScore(told.round, told.score, told.hospitals)
    except (ModelInvalid, ConfigError):
        return None
