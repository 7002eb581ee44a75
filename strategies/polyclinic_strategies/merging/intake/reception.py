"""A contribution that arrives: into the ledger, or refused; either is told."""

import hashlib
import tempfile
from pathlib import Path

from polyclinic.federation.assignment import Handover
from polyclinic.federation.attendance import Listener
from polyclinic.store.entries import Receipt
from polyclinic.store.ledger import Ledger
from polyclinic.store.refusals import ContributionRefused
from polyclinic.store.requirements import Requirements
from polyclinic_strategies.merging.events import Contributed, ContributionRejected, Duplicate


def is_whole(handover: Handover) -> bool:
    """Return whether what is handed over, if it is anything, arrived as it was sent."""
    if not handover.digest:
        return True
    return hashlib.sha256(handover.content).hexdigest() == handover.digest


def take_in(
    ledger: Ledger, site: str, handover: Handover, requirements: Requirements, on_event: Listener
) -> Receipt:
    """Put a contribution into the ledger.

    Args:
        ledger: The ledger.
        site: Hospital that sent the contribution.
        handover: The contribution's file and digest.
        requirements: What is accepted.
        on_event: Told that it came, came again, or is refused.

    Raises:
        ContributionRefused: It is not accepted.
    """
    incoming = ledger.folder / "incoming"
    incoming.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=incoming, suffix=".safetensors") as file:
        file.write(handover.content)
        file.flush()
        try:
            receipt = ledger.receive(Path(file.name), site, requirements)
        except ContributionRefused as refusal:
            digest, error, reason = handover.digest, type(refusal).__name__, str(refusal)
            on_event(ContributionRejected(site=site, digest=digest, error=error, reason=reason))
            raise
    if not receipt.new:
        on_event(Duplicate(site=site, digest=receipt.digest))
        return receipt
    entry = next(entry for entry in ledger.entries(site) if entry.digest == receipt.digest)
    on_event(
        Contributed(
            site=site,
            digest=receipt.digest,
            num_examples=entry.num_examples,
            staleness=entry.staleness,
            norm=entry.norm,
            number=entry.sequence,
            start=0 if entry.base == requirements.base else _number_of(ledger, entry.base),
        )
    )
    return receipt


def _number_of(ledger: Ledger, model: str) -> int:
    """Return the number of a published model; 0 for a base."""
    return next((one.number for one in ledger.publications() if one.digest == model), 0)
