"""What a hospital was asked for, and what its staff decided about it, in the state folder.

    STATE/asked/DIGEST.json      what was asked; written by the worker, touched when asked again
    STATE/decisions/DIGEST.json  approved, or refused and why; written by `approve` and `refuse`

Two folders, as two processes write: neither changes the other's files.
"""

import getpass
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from polyclinic.config.validation import validate
from polyclinic.errors import ConfigError
from polyclinic.system.durable import write_durably
from polyclinic.system.text import clean, parse_json
from polyclinic_client.policy.asked import Asked
from polyclinic_client.policy.policy import PolicyDamaged, policy_files

ASKED, DECISIONS = "asked", "decisions"
MOST = 1000  # different questions that are kept; the newest stay
LARGEST_BYTES = 256 * 1024
REASON_CHARACTERS = 300


class Decision(BaseModel):
    """What a person decided.

    Attributes:
        approved: Whether the run may be worked for.
        reason: Why not; the coordinator reads it.
        by: Who decided: a user of this machine.
        time: Seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    approved: bool
    reason: Annotated[str, Field(max_length=REASON_CHARACTERS)] = ""
    by: Annotated[str, Field(max_length=100)] = ""
    time: FiniteFloat


@dataclass(frozen=True)
class Request:
    """Something that was asked for.

    Attributes:
        digest: Names it.
        asked: What it is.
        time: When it was last asked for, in seconds since 1970.
        decision: What a person decided; None while nobody has.
    """

    digest: str
    asked: Asked
    time: float
    decision: Decision | None


def note_asked(state: Path, asked: Asked) -> str:
    """Remember that something was asked for; return its digest."""
    digest = asked.digest
    path = state / ASKED / f"{digest}.json"
    if path.exists():
        os.utime(path)
        return digest
    known = sorted((state / ASKED).glob("*.json"), key=lambda each: each.stat().st_mtime)
    for oldest in known[: max(0, len(known) - MOST + 1)]:
        oldest.unlink(missing_ok=True)
    write_durably(path, json.dumps(asked.values()).encode())
    return digest


def decision_on(state: Path, digest: str) -> Decision | None:
    """Return what a person decided about a question; None while nobody has.

    Raises:
        PolicyDamaged: The file that says so cannot be read: nothing leaves.
    """
    path = state / DECISIONS / f"{digest}.json"
    try:
        with path.open("rb") as file:
            return Decision.model_validate_json(file.read(LARGEST_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PolicyDamaged(path, "it is no decision") from error


def requests(state: Path) -> list[Request]:
    """List what was asked for, the newest first; files that are damaged are left out."""
    found = []
    for path in (state / ASKED).glob("*.json"):
        try:
            with path.open("rb") as file:
                asked = validate(Asked, parse_json(file.read(LARGEST_BYTES)))
            if asked.digest == path.stem:
                moment = path.stat().st_mtime
                found.append(Request(path.stem, asked, moment, decision_on(state, path.stem)))
        except (OSError, ValueError, TypeError, ConfigError):
            continue
    return sorted(found, key=lambda each: each.time, reverse=True)


def decide(state: Path, name: str, *, approved: bool, reason: str = "") -> list[Request]:
    """Keep a person's decision.

    Args:
        state: The hospital's state folder.
        name: Name of a run, for all that it asks for until now; or the beginning of a digest.
        approved: Whether it may be worked for.
        reason: Why not; the coordinator reads it.

    Returns:
        What was decided about.

    Raises:
        ConfigError: Nothing of that name was asked for, or several things begin so.
    """
    known = requests(state)
    chosen = [each for each in known if each.asked.run == name]
    if not chosen:
        chosen = [each for each in known if len(name) >= 6 and each.digest.startswith(name)]
        if len(chosen) > 1:
            raise ConfigError(f"Several digests begin with {name}: name more of it.")
    if not chosen:
        raise ConfigError(
            f"Nobody has asked this hospital for '{clean(name)[:100]}'. `polyclinic-client runs` "
            "shows what was asked."
        )
    if len(reason) > REASON_CHARACTERS:
        raise ConfigError(f"A reason has at most {REASON_CHARACTERS} characters.")
    decision = Decision(approved=approved, reason=reason, by=_user(), time=time.time())
    for each in chosen:
        path = state / DECISIONS / f"{each.digest}.json"
        write_durably(path, decision.model_dump_json().encode())
    return chosen


def decided_at(state: Path) -> float:
    """Return when somebody last decided, or changed the policy; 0 where nobody has."""
    paths = [*policy_files(state), *(state / DECISIONS).glob("*.json")]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)


def _user() -> str:
    try:
        return getpass.getuser()[:100]
    except (OSError, KeyError):
        return ""
