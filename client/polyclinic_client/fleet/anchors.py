"""Lines of coordinators' journals, kept at the hospital: a journal cannot be changed unseen.

The newest line of each journal is kept, and some earlier ones: a journal that was written anew
contradicts these, whatever its newest line is.
"""

from pathlib import Path

from polyclinic.errors import ConfigError
from polyclinic.fleet.anchor import KEPT, SIGNATURE_BYTES, KeptJournal, KeptLine, is_signed
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
        try:
            kept = self.read()
        except ConfigError as error:
            return f"warning: {error}"
        known = kept.get(journal)
        new = KeptLine(
            sequence=int(anchor.sequence),
            hash=anchor.hash[:CHARACTERS],
            signature=anchor.signature[:SIGNATURE_BYTES].hex(),
        )
        before = -1 if known is None else known.sequence
        if new.sequence < before or (known and new.sequence == before and known.hash != new.hash):
            return (
                f"warning: the coordinator's journal is not what it was: '{journal}' had {before} "
                f"lines when this hospital last heard of it, and now shows {anchor.sequence}. Ask "
                f"the coordinator; {self.path} is the proof."
            )
        if new.sequence > before:
            kept.pop(journal, None)
            kept[journal] = KeptJournal(**dict(new), earlier=_thinned(known))
            newest = dict(list(kept.items())[-MOST:])
            write_durably(self.path, KEPT.dump_json(newest, indent=2))
        return ""

    def read(self) -> dict[str, KeptJournal]:
        """Return what is kept, by journal.

        Raises:
            ConfigError: The file is damaged; it is a proof, so nothing is written over it.
        """
        try:
            return KEPT.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.path} is damaged, so the coordinator's journals are not watched. Restore "
                "it from a backup, or move it away to begin anew."
            ) from error


def _thinned(known: KeptJournal | None) -> tuple[KeptLine, ...]:
    """Return the lines of a journal that were kept before; the older, the fewer."""
    if known is None:
        return ()
    newest = KeptLine(sequence=known.sequence, hash=known.hash, signature=known.signature)
    lines = (*known.earlier, newest)
    if len(lines) > MOST_EARLIER:
        half = MOST_EARLIER // 2
        lines = (*lines[:half:2], *lines[half:])
    return lines
