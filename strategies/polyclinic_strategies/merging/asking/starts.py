"""Which model each hospital starts from, and whose turn it is.

A hospital keeps the model that it was told to start from: were it another one at every question,
the hospital would begin again each time. The file survives a restart of the coordinator.
"""

import json
from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyclinic.store.ledger import Ledger
from polyclinic.system import clock
from polyclinic.system.durable import DIGEST, write_durably
from polyclinic_strategies.merging.publisher import Publisher

BASE, NEWEST, IN_TURN = "base", "newest", "in_turn"
STARTS = (BASE, NEWEST, IN_TURN)
ABSENT_S = 60.0  # a hospital that is away for longer keeps nobody waiting

Digest = Annotated[str, Field(pattern=f"^{DIGEST.pattern}$")]


class _Written(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(frozen=True, strict=True)

    base: Digest
    starts: dict[str, Digest]


class Starts:
    """Starts of the hospitals that contribute to a ledger's current base.

    Args:
        kind: base, newest or in_turn.
        publisher: Knows the ledger, whose folder keeps the starts, and its models. A start that is
            not among these is forgotten.
    """

    def __init__(self, kind: str, publisher: Publisher) -> None:
        self._kind, self._publisher = kind, publisher
        self._base = publisher.ledger.bases()[-1]
        self._path = publisher.ledger.folder / "starts.json"
        self._starts = {} if kind == BASE else self._find()
        moment = clock.monotonic()
        self._moved = dict.fromkeys(self._starts, moment)  # when each told something new last
        self._seen = dict.fromkeys(self._starts, moment)

    def published(self) -> dict[str, int]:
        """Return the published models that hospitals may have started from.

        Each comes with the number of bases that it is behind the current one.
        """
        return {} if self._kind == BASE else self._publisher.published()

    def of(self, site: str) -> str | None:
        """Return the model that a hospital starts from; None before it is told."""
        return self._base if self._kind == BASE else self._starts.get(site)

    def see(self, sites: Collection[str]) -> None:
        """Note which hospitals are online."""
        self._seen |= dict.fromkeys(sites, clock.monotonic())

    def move(self, site: str) -> None:
        """Note that a hospital told something new of its work."""
        self._moved[site] = clock.monotonic()

    def may_begin(self, site: str, done: Collection[str], patience_s: float) -> bool:
        """Tell whether a hospital may be told to start.

        Args:
            site: The hospital.
            done: Hospitals that have contributed, or cannot.
            patience_s: A hospital that tells nothing new for longer keeps nobody waiting.
        """
        moment = clock.monotonic()
        return self._kind != IN_TURN or not any(
            moment - moved < patience_s and moment - self._seen[other] < ABSENT_S
            for other, moved in self._moved.items()
            if other != site and other not in done
        )

    def begin(self, site: str, model: str) -> str:
        """Tell a hospital the model that it starts from, and keep it."""
        self._starts[site] = model
        self._moved[site] = self._seen[site] = clock.monotonic()
        written = _Written(base=self._base, starts=self._starts)
        write_durably(self._path, json.dumps(written.model_dump()).encode())
        return model

    def _find(self) -> dict[str, str]:
        """Return what was kept, and what the ledger's contributions started from."""
        here = (model for model, behind in self._publisher.published().items() if not behind)
        models = {self._base, *here}
        known = {entry.site: entry.base for entry in self._publisher.received()}
        kept = {**self._read(), **known}
        return {site: start for site, start in kept.items() if start in models}

    def _read(self) -> dict[str, str]:
        """Read what was kept; nothing from a file that is missing, damaged or of another base."""
        try:
            found = _Written.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return {}
        return found.starts if found.base == self._base else {}


def heirs_of(ledger: Ledger, site: str) -> list[str]:
    """Return the hospitals that learned from a hospital's contributions, which do not count now.

    Their active contributions started from a model that was made of one, or, further back, from a
    model made of such contributions.
    """
    parts: dict[str, set[str]] = {}  # of a published model, the contributions that it was made of
    for publication in ledger.publications():
        parts.setdefault(publication.digest, set()).update(publication.contributions)
    entries = ledger.entries()
    held = {entry.digest for entry in entries if entry.site == site and entry.state == "withdrawn"}
    heirs = set()
    for entry in entries:  # oldest first: a model is older than what started from it
        if entry.digest not in held and parts.get(entry.base, set()) & held:
            held.add(entry.digest)
            if entry.state == "active":
                heirs.add(entry.site)
    return sorted(heirs)
