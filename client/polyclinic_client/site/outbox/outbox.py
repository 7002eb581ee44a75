"""The contributions in the outbox; the files are named in `polyclinic_client.site.outbox`."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from polyclinic.errors import DatasetInvalid
from polyclinic_client.site.outbox.assignments import Assignments, Wanted
from polyclinic_client.site.outbox.files import read_values, time_of, write_values
from polyclinic_client.site.status import FINE_TUNING, StatusFile

REFINED = "refined.safetensors"  # in the state folder: the model that was made for this hospital
OTHERS_TURN = "waiting for its turn"  # what fine-tuning does for a run while it works for another
SHORT = 16  # characters of a ledger's identity in a file's name


@dataclass(frozen=True)
class Ready:
    """A contribution that waits to be handed over."""

    digest: str
    path: Path

    def content(self, *, summed: bool) -> bytes:
        """Return what is handed over: nothing of what goes into a secure sum."""
        return b"" if summed else self.path.read_bytes()


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
        self.assignments = Assignments(state)

    def assign(self, assignment: dict[str, Any]) -> Wanted:
        """Remember what a run wants, and when it last said so."""
        wanted, over = self.assignments.keep(assignment)
        for path, note in self._waiting():
            if note.get("for") in over:
                self._drop(path)
        self._offer_again(wanted)
        return wanted

    def assignment(self) -> dict[str, Any] | None:
        """Return what the run wants that asked last; it says so again if that is lost."""
        newest = self.assignments.newest()
        return None if newest is None else newest.values

    def asked_at(self) -> float | None:
        """Return when a coordinator last asked, in seconds since 1970."""
        newest = self.assignments.newest()
        return None if newest is None else newest.asked

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
        for wanted in self.assignments.in_turn(self._worked()):
            if self.base_path(wanted.values["base"]).exists():
                key = self.key(wanted.values)
                if self._is_open(key, wanted.ledger):
                    return key
        return None

    def wanted(self, key: str) -> Wanted | None:
        """Return the assignment whose work has a key, of the run that asked last."""
        known = self.assignments.all()
        return next((each for each in known if self.key(each.values) == key), None)

    def put(self, path: Path, key: str) -> None:
        """Declare a contribution in the outbox as ready; remove what a crash left half-done."""
        for other in self.folder.glob("*.safetensors"):
            if other != path and not other.with_suffix(".json").exists():
                other.unlink()
        wanted = self.wanted(key)
        made_for = {} if wanted is None else {"for": wanted.name}
        write_values(path.with_suffix(".json"), {"key": key, "time": time.time(), **made_for})

    def ready(self, wanted: Wanted | None = None) -> Ready | None:
        """Return the oldest contribution that waits to be handed over to a run.

        Args:
            wanted: What the run wants; that of the run that asked last if None.
        """
        wanted = wanted or self.assignments.newest()
        if wanted is None:
            return None
        key = self.key(wanted.values)
        # a note of an earlier version does not say which run it is for
        found = [
            (time_of(note), path)
            for path, note in self._waiting()
            if note.get("for", wanted.name) == wanted.name or note.get("key") == key
        ]
        paths = [path.with_suffix(".safetensors") for _, path in sorted(found)]
        return next((Ready(path.stem, path) for path in paths if path.exists()), None)

    def find(self, digest: str) -> Ready | None:
        """Return a contribution that waits to be handed over."""
        path = self.folder / f"{digest}.safetensors"
        waits = path.with_suffix(".json").exists() and path.exists()
        return Ready(digest, path) if waits else None

    def settle(
        self, digest: str, accepted: bool, reason: str, wanted: Wanted | None = None
    ) -> None:
        """Keep a coordinator's word on a contribution, and forget it; safe to repeat.

        Args:
            digest: The contribution.
            accepted: Whether it counts.
            reason: Why it does not.
            wanted: Of the run that says so; of the run that asked last if None.
        """
        wanted = wanted or self.assignments.newest()
        ledger = "" if wanted is None else wanted.ledger
        waiting = self.folder / f"{digest}.json"
        settled = self._settled / f"{digest}-{ledger[:SHORT]}.json"
        note = read_values(waiting) or self._earlier_note(digest)
        if waiting.exists() or (note and not settled.exists()):
            said = {"accepted": accepted, "reason": reason, "settled": time.time()}
            write_values(settled, {**note, "ledger": ledger, **said})
        if waiting.exists():
            waiting.unlink()
            for older in self._settled.glob("*.safetensors"):
                older.unlink()
            path = self.folder / f"{digest}.safetensors"
            if path.exists():
                path.replace(self._settled / path.name)

    def outcome(self, key: str, ledger: str | None = None) -> Outcome | None:
        """Return what a ledger said of this work; None while it has not.

        Args:
            key: Names the work.
            ledger: Identity of the ledger; that of the run that asked last if None.
        """
        newest = self.assignments.newest()
        wanted = newest.ledger if ledger is None and newest is not None else ledger
        for path in self._settled.glob("*.json"):
            with suppress(ValueError):
                found = Outcome.model_validate(read_values(path))
                if (found.key, found.ledger) == (key, wanted):
                    return found
        return None

    def progress(self, wanted: Wanted | None = None) -> str:
        """Return what fine-tuning does for a run, in words."""
        status = StatusFile(self.state / FINE_TUNING).read()
        order = {} if wanted is None else wanted.values["order"]
        mine = all(status.details.get(name) == order.get(name) for name in ("run", "arm"))
        if order and status.percent is not None and not mine:
            return OTHERS_TURN
        return status.doing if status.percent is None else f"{status.doing} {status.percent} %"

    def fail(self, key: str, reason: str) -> None:
        """Remember that training for this work failed, so that it is not tried again and again."""
        write_values(self._failure(key), {"key": key, "reason": reason, "time": time.time()})

    def failure(self, key: str) -> Failure | None:
        """Return why training for this work failed, if it did."""
        try:
            return Failure.model_validate(read_values(self._failure(key)))
        except ValueError:
            return None

    def forget_failure(self) -> None:
        """Let failed work be tried again: somebody may have mended something."""
        shutil.rmtree(self.state / "failures", ignore_errors=True)

    def _is_open(self, key: str, ledger: str) -> bool:
        """Return whether work is still to be done for a ledger."""
        kept = [*self._waiting(), *self._kept()]
        if any(note.get("key") == key for _, note in kept):
            return False  # it waits, or is offered again when the coordinator asks
        return self.failure(key) is None and self.outcome(key, ledger) is None

    def _waiting(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the note of each contribution that waits, and its path."""
        for path in self.folder.glob("*.json"):
            yield path, read_values(path)

    def _kept(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield each contribution that was settled and is still here, and its note."""
        for path in self._settled.glob("*.safetensors"):
            yield path, self._earlier_note(path.stem)

    def _worked(self) -> dict[str, float]:
        """Return when a contribution was last made for an assignment, by its name."""
        found: dict[str, float] = {}
        for path in (*self.folder.glob("*.json"), *self._settled.glob("*.json")):
            note = read_values(path)
            name = str(note.get("for", ""))
            found[name] = max(found.get(name, 0.0), time_of(note))
        return found

    def _offer_again(self, wanted: Wanted) -> None:
        """Offer a contribution that another ledger has already to this one too."""
        key = self.key(wanted.values)
        if self.outcome(key, wanted.ledger) is not None:
            return
        for kept, note in self._kept():
            if note.get("key") == key and self.find(kept.stem) is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(kept, self.folder / kept.name)
                self.put(self.folder / kept.name, key)

    def _earlier_note(self, digest: str) -> dict[str, Any]:
        """Return what is known of a contribution that some ledger has settled."""
        for path in self._settled.glob(f"{digest}*.json"):
            note = read_values(path)
            return {name: note[name] for name in ("key", "time", "for") if name in note}
        return {}

    def _drop(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        path.with_suffix(".safetensors").unlink(missing_ok=True)

    def _failure(self, key: str) -> Path:
        return self.state / "failures" / f"{key}.json"

    @property
    def _settled(self) -> Path:
        return self.state / "settled"
