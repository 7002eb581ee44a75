"""A hospital's outbox: what it was asked for, and what it hands over, on its own disk.

    STATE/assignment.json            what the coordinator wants, as it last said
    STATE/bases/DIGEST.safetensors   the model to start from
    STATE/outbox/DIGEST.safetensors  a finished contribution, waiting to be handed over ...
    STATE/outbox/DIGEST.json         ... and which assignment it answers; the file needs it to count
    STATE/settled/DIGEST.json        what the coordinator said of it: accepted, or refused and why;
                                     of the newest the file too, in case another coordinator, with a
                                     ledger of its own, asks for the same
    STATE/failure.json               why training for an assignment failed; it is not tried again
                                     until something changes

Training writes here when it is done, the coordinator's question empties it, and neither waits for
the other. A contribution is forgotten once the coordinator has said what became of it, and the
coordinator says so when its ledger has it for good: whatever dies in between, the contribution
arrives, and counts once.
"""

import json
import math
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from polyclinic.errors import DatasetInvalid
from polyclinic.system.durable import DIGEST, write_durably
from polyclinic.system.text import parse_json
from polyclinic_client.site.status import FINE_TUNING, StatusFile

REFINED = "refined.safetensors"  # in the state folder: the model that was made for this hospital


@dataclass(frozen=True)
class Ready:
    """A contribution that waits to be handed over."""

    digest: str
    path: Path

    def content(self, *, summed: bool) -> bytes:
        """Return what is handed over: nothing of what goes into a secure sum."""
        return b"" if summed else self.path.read_bytes()


class _Wanted(BaseModel):
    """What the outbox itself needs of an assignment; its worker reads all of it.

    `polyclinic.federation.assignment` would import torch, which the supervisor does without.
    """

    order: dict[str, Any]
    base: Annotated[str, Field(pattern=f"^{DIGEST.pattern}$")]
    ledger: Annotated[str, Field(pattern=f"^{DIGEST.pattern}$")]


class Failure(BaseModel):
    """Why training for the work of a key failed."""

    key: str
    reason: str = ""


class Outcome(BaseModel):
    """What the coordinator of a ledger said of the work of a key."""

    key: str
    ledger: str
    accepted: bool
    reason: str = ""


class Outbox:
    """The outbox in a hospital's state folder.

    Args:
        state: The hospital's state folder.
        data: Folder with dataset.json; when that file changes, there is something to contribute.
    """

    def __init__(self, state: Path, data: Path) -> None:
        self.state = state
        self.data = data
        self.folder = state / "outbox"

    def assign(self, assignment: dict[str, Any]) -> None:
        """Remember what the coordinator wants, and when it last said so."""
        path = self.state / "assignment.json"
        if assignment != self.assignment():
            _write(path, assignment)
            self._offer_again(assignment)
        path.touch()

    def assignment(self) -> dict[str, Any] | None:
        """Return what the coordinator wants, as it last said; it says so again if that is lost."""
        found = _read(self.state / "assignment.json")
        try:
            _Wanted.model_validate(found)
        except ValueError:
            return None
        return found

    def asked_at(self) -> float | None:
        """Return when the coordinator last asked, in seconds since 1970."""
        path = self.state / "assignment.json"
        return path.stat().st_mtime if path.exists() else None

    def base_path(self, digest: str) -> Path:
        """Return where a base model is kept."""
        return self.state / "bases" / f"{digest}.safetensors"

    def key(self, assignment: dict[str, Any]) -> str:
        """Name one piece of work: the same assignment on the same list of cases.

        Raises:
            DatasetInvalid: dataset.json cannot be read.
        """
        # names of run, arm and ledger do not matter: the same work is the same contribution
        order = {
            key: value
            for key, value in assignment["order"].items()
            if key not in ("run", "arm", "offset", "round", "version")
        }
        wanted = {
            **{key: value for key, value in assignment.items() if key != "ledger"},
            "order": order,
        }
        return sha256(json.dumps(wanted, sort_keys=True).encode() + self._listing()).hexdigest()

    def listed(self) -> bytes:
        """Return the SHA-256 of the list of cases.

        Raises:
            DatasetInvalid: dataset.json cannot be read.
        """
        return sha256(self._listing()).digest()

    def _listing(self) -> bytes:
        path = self.data / "dataset.json"
        try:
            return path.read_bytes()
        except OSError as error:
            raise DatasetInvalid(
                path, f"cannot be read ({error.strerror})", "Restore it."
            ) from error

    def todo(self) -> str | None:
        """Return the key of the work to do; None where there is none, or its base is missing."""
        assignment = self.assignment()
        if assignment is None or not self.base_path(assignment["base"]).exists():
            return None
        key = self.key(assignment)
        waiting = any(_read(path).get("key") == key for path in self.folder.glob("*.json"))
        failure = self.failure()
        failed = failure is not None and failure.key == key
        return None if waiting or failed or self.outcome(key) else key

    def put(self, path: Path, key: str) -> None:
        """Declare a contribution in the outbox as ready; remove what a crash left half-done."""
        for other in self.folder.glob("*.safetensors"):
            if other != path and not other.with_suffix(".json").exists():
                other.unlink()
        _write(path.with_suffix(".json"), {"key": key, "time": time.time()})

    def ready(self) -> Ready | None:
        """Return the oldest contribution that waits to be handed over."""
        waiting = [(_time(_read(path)), path) for path in self.folder.glob("*.json")]
        paths = [path.with_suffix(".safetensors") for _, path in sorted(waiting)]
        return next((Ready(path.stem, path) for path in paths if path.exists()), None)

    def settle(self, digest: str, accepted: bool, reason: str) -> None:
        """Keep the coordinator's word on a contribution, and forget it; safe to repeat."""
        note = self.folder / f"{digest}.json"
        if note.exists():
            ledger = (self.assignment() or {}).get("ledger")
            said = {
                **_read(note),
                "ledger": ledger,
                "accepted": accepted,
                "reason": reason,
                "settled": time.time(),
            }
            _write(self._settled / note.name, said)
            note.unlink(missing_ok=True)
            for older in self._settled.glob("*.safetensors"):
                older.unlink()
            path = self.folder / f"{digest}.safetensors"
            if path.exists():
                path.replace(self._settled / path.name)

    def outcome(self, key: str) -> Outcome | None:
        """Return what the current ledger said of this work; None while it has not."""
        ledger = (self.assignment() or {}).get("ledger")
        for path in self._settled.glob("*.json"):
            with suppress(ValueError):
                found = Outcome.model_validate(_read(path))
                if (found.key, found.ledger) == (key, ledger):
                    return found
        return None

    def progress(self) -> str:
        """Return what fine-tuning does, in words."""
        status = StatusFile(self.state / FINE_TUNING).read()
        return status.doing if status.percent is None else f"{status.doing} {status.percent} %"

    def fail(self, key: str, reason: str) -> None:
        """Remember that training for this work failed, so that it is not tried again and again."""
        _write(self.state / "failure.json", {"key": key, "reason": reason, "time": time.time()})

    def failure(self) -> Failure | None:
        """Return why training failed, if it did."""
        try:
            return Failure.model_validate(_read(self.state / "failure.json"))
        except ValueError:
            return None

    def forget_failure(self) -> None:
        """Let failed work be tried again: somebody may have mended something."""
        (self.state / "failure.json").unlink(missing_ok=True)

    def _offer_again(self, assignment: dict[str, Any]) -> None:
        """Offer a contribution that another ledger has already to this one too."""
        key = self.key(assignment)
        if self.outcome(key) is not None:
            return
        for kept in self._settled.glob("*.safetensors"):
            note = _read(kept.with_suffix(".json"))
            if note.get("key") == key and not (self.folder / f"{kept.stem}.json").exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(kept, self.folder / kept.name)
                self.put(self.folder / kept.name, key)

    @property
    def _settled(self) -> Path:
        return self.state / "settled"


def _write(path: Path, values: dict[str, Any]) -> None:
    write_durably(path, json.dumps(values).encode())


def _read(path: Path) -> dict[str, Any]:
    """Read the values in a file; there are none in one that is missing or damaged."""
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _time(note: dict[str, Any]) -> float:
    """Return when a note was written; the oldest time where it does not say so."""
    found = note.get("time")
    return found if isinstance(found, float) and math.isfinite(found) else 0.0
