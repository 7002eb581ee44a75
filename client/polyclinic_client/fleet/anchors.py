"""Newest lines of coordinators' journals, kept at the hospital: a journal cannot be cut unseen."""

import json
from pathlib import Path
from typing import Any

from polyclinic.fleet.wire.fleet_pb2 import Anchor
from polyclinic.system.durable import write_durably

MOST = 50  # journals; the ones heard of last stay
CHARACTERS = 200


class Anchors:
    """The file `anchors.json` in a hospital's state folder.

    Args:
        state: The folder.
    """

    def __init__(self, state: Path) -> None:
        self.path = state / "anchors.json"

    def keep(self, anchor: Anchor) -> str:
        """Keep an anchor; return a warning if it contradicts what was kept before."""
        journal = anchor.journal[:CHARACTERS]
        kept = self.read()
        known = kept.get(journal, {})
        new = {
            "sequence": int(anchor.sequence),
            "hash": anchor.hash[:CHARACTERS],
            "signature": anchor.signature[: 10 * CHARACTERS].hex(),
        }
        before = int(known.get("sequence", -1))
        if anchor.sequence < before or (anchor.sequence == before and known["hash"] != new["hash"]):
            return (
                f"warning: the coordinator's journal is not what it was: it had {before} lines "
                f"when this hospital last heard of it, and now shows {anchor.sequence}. Ask the "
                f"coordinator; {self.path} is the proof."
            )
        if new != known:
            kept.pop(journal, None)
            kept[journal] = new
            newest = dict(list(kept.items())[-MOST:])
            write_durably(self.path, json.dumps(newest, indent=2))
        return ""

    def read(self) -> dict[str, dict[str, Any]]:
        """Return what is kept, by journal."""
        try:
            return dict(json.loads(self.path.read_text()))
        except (OSError, ValueError):
            return {}
