"""Withdrawal of what a hospital handed over, or described."""

from polyclinic.errors import NothingToWithdraw
from polyclinic.store.ledger import Ledger


def withdraw(ledger: Ledger, site: str, reason: str) -> str:
    """Withdraw all contributions of a hospital; of one that only described its images, that.

    Args:
        ledger: Where they are.
        site: The hospital.
        reason: For the journal.

    Returns:
        What was done, and what it does not reach, in words.

    Raises:
        NothingToWithdraw: The ledger holds neither.
    """
    from polyclinic_strategies.merging.asking.starts import heirs_of
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
        return f"The description of {site} is removed; no model was made of it."
    said = (
        f"{site} is withdrawn; active contributions: {len(ledger.active())}. "
        "The next published model is made without it."
    )
    if heirs := heirs_of(ledger, site):
        said += (
            f" {', '.join(heirs)} started from a model that held it, and keep what they learned "
            "there: withdraw them, too, if nothing of it may stay."
        )
    return said
