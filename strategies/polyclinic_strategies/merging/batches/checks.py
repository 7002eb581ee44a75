"""What merging by secure sums can do, and what it says of itself."""

from dataclasses import replace

from polyclinic.config.schemas import SumsConfig
from polyclinic.errors import ConfigError
from polyclinic.federation.secure_sums.exchange import check_protection
from polyclinic_strategies.merging.asking.starts import BASE
from polyclinic_strategies.merging.strategy import Merging

MEAN = "polyclinic_strategies.merging.rules.mean.Mean"
BY_MEMBERS = "polyclinic_strategies.merging.rules.weighted_mean.WeightedMean"


def by_members(strategy: Merging) -> Merging:
    """Let batches weigh as many hospitals as they have."""
    return replace(strategy, rule={**strategy.rule, "_target_": BY_MEMBERS})


def check_batches(strategy: Merging, sums: SumsConfig) -> None:
    """Refuse what cannot be done with sums alone.

    Raises:
        ConfigError: The strategy needs single contributions.
    """
    why = ""
    if strategy.rule.get("_target_") != MEAN:
        why = f"{strategy.title} needs single contributions"
    elif strategy.statistics:
        why = f"strategy.statistics={list(strategy.statistics)} are of single hospitals"
    elif strategy.compare or strategy.controls:
        why = "strategy.compare and strategy.controls merge and test single contributions"
    elif strategy.rank:
        why = "strategy.rank hands over factors, which do not add up"
    elif strategy.start != BASE:
        why = f"strategy.start={strategy.start} adds to each contribution the model it started from"
    elif strategy.max_staleness:
        why = "strategy.max_staleness weighs single contributions by their age"
    if why:
        raise ConfigError(
            f"A sum hides single contributions, and {why}: choose strategy=merging/mean without "
            "them; or privacy=none."
        )
    check_protection(sums)


def describe_batches(sums: SumsConfig) -> str:
    """Say in some sentences what sums change."""
    seen = "sees their sums alone" if sums.masked else "sees each of them: this protects nobody"
    return (
        f"Contributions travel as {sums.bits}-bit numbers up to {sums.clip:g}, and the coordinator "
        f"{seen}. A batch of hospitals is one entry of the ledger: it can be withdrawn as a whole, "
        "and no hospital alone. Every hospital weighs the same, and checks of single contributions "
        "are off."
    )
