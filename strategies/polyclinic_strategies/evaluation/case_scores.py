"""Scores of a hospital's cases, which stay there: what later models are compared with.

STATE/runs/RUN/MODEL/cases.json
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from polyclinic.system.durable import write_durably
from polyclinic.system.text import parse_json

FILE = "cases.json"
MOST_BYTES = 64 * 2**20


class CaseScores(BaseModel):
    """Scores of one model.

    Attributes:
        digest: SHA-256 of the model's weights.
        scores: Name of a case to its score; a case without a score is left out.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scores: Mapping[str, Annotated[float, Field(ge=0, le=1)]]


def keep_scores(folder: Path, scores: CaseScores) -> None:
    """Write the file, all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / FILE, json.dumps(scores.model_dump()).encode())


def read_scores(folder: Path) -> CaseScores | None:
    """Read the file; None if there is none, or a damaged one: the model is then not compared."""
    path = folder / FILE
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        return CaseScores.model_validate(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
