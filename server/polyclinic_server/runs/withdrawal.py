"""Withdrawal of what a hospital handed over, or described."""

from polyclinic.errors import NothingToWithdraw
from polyclinic.store.ledger import Ledger


def withdraw(ledger: Ledger, site: str, reason: str) -> int | None:
    """Withdraw all contributions of a hospital; of one that only described its images, that.

    Args:
        ledger: Where they are.
        site: The hospital.
        reason: For the journal.

    Returns:
        Number of active contributions that are left; None if a description was removed.

    Raises:
        NothingToWithdraw: The ledger holds neither.
    """
    from polyclinic_strategies.merging.publisher import Publisher
    from polyclinic_strategies.refinement.refiner import Refiner

    refiner = Refiner(Publisher(ledger, 0, 0.5))
    described = site in refiner.newcomers()
    try:
        ledger.withdraw(site, reason)
    except NothingToWithdraw:
        if not described:
            raise
        refiner.forget(site)
        return None
    return len(ledger.active())
