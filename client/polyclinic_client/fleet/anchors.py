"""Lines of coordinators' journals, kept at the hospital: a journal cannot be changed unseen.

The newest line of each journal is kept, and some earlier ones: a journal that was written anew
contradicts these, whatever its newest line is.
"""

import json
from pathlib import Path
from typing import Any

from polyclinic.fleet.anchor import SIGNATURE_BYTES, is_signed
from polyclinic.fleet.wire.fleet_pb2 import Anchor
from polyclinic.system.durable import write_durably
from polyclinic.system.text import clean

MOST = 50  # journals; the ones heard of last stay
MOST_EARLIER = 32  # lines of one journal besides the newest
CHARACTERS = 200


class Anchors:
    """The file `anchors.json` in a hospital's state folder.

    Args:
        state: The folder.
        authority: Certificate of the authority in the kit, PEM, whose coordinators sign; empty
            where no keys are used.
    """

    def __init__(self, state: Path, authority: str = "") -> None:
        self.path = state / "anchors.json"
        self._authority = authority
        self._warned: set[str] = set()

    def keep(self, anchor: Anchor) -> str:
        """Keep an anchor; return a warning, once, if it contradicts what was kept before."""
        warning = self._keep(anchor)
        if warning in self._warned:
            return ""
        self._warned.add(warning)
        return warning

    def _keep(self, anchor: Anchor) -> str:
        journal = clean(anchor.journal)[:CHARACTERS]
        if self._authority and not is_signed(anchor, self._authority):
            return (
                f"warning: what the coordinator shows of its journal ({journal}) is not signed by "
                "its own certificate, and was not kept. Ask the coordinator."
            )
        kept = self.read()
        known = kept.get(journal, {})
        new = {
            "sequence": int(anchor.sequence),
            "hash": anchor.hash[:CHARACTERS],
            "signature": anchor.signature[:SIGNATURE_BYTES].hex(),
        }
        before = int(known.get("sequence", -1))
        if anchor.sequence < before or (anchor.sequence == before and known["hash"] != new["hash"]):
            return (
                f"warning: the coordinator's journal is not what it was: '{journal}' had {before} "
                f"lines when this hospital last heard of it, and now shows {anchor.sequence}. Ask "
                f"the coordinator; {self.path} is the proof."
            )
        if anchor.sequence > before:
            kept.pop(journal, None)
            kept[journal] = {**new, "earlier": _thinned(known)}
            newest = dict(list(kept.items())[-MOST:])
            write_durably(self.path, json.dumps(newest, indent=2))
        return ""

    def read(self) -> dict[str, dict[str, Any]]:
        """Return what is kept, by journal."""
        try:
            return dict(json.loads(self.path.read_text()))
        except (OSError, ValueError):
            return {}


def _thinned(known: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a journal that were kept before; the older, the fewer."""
    if not known:
        return []
    newest = {name: known[name] for name in ("sequence", "hash", "signature")}
    lines = [*known.get("earlier", []), newest]
    if len(lines) > MOST_EARLIER:
        half = MOST_EARLIER // 2
        lines = [*lines[:half:2], *lines[half:]]
    return lines
