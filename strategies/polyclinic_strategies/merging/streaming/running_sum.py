"""Sums that a coordinator keeps beside its ledger, so that an arrival costs one task vector.

They are a cache: a sum that is missing, damaged or of another base is made again from the ledger.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from polyclinic.errors import ModelInvalid
from polyclinic.learning.state_dict import StateDict
from polyclinic.store.contribution import TensorFile
from polyclinic.store.ledger import Entry
from polyclinic.store.refusals import ContributionDamaged
from polyclinic_strategies.merging.rules.mean import Mean
from polyclinic_strategies.merging.rules.sum import Sum
from polyclinic_strategies.merging.rules.weighted_mean import WeightedMean
from polyclinic_strategies.merging.streaming.accumulator import Accumulator, AdditiveRule

ADDITIVE = (Sum, Mean, WeightedMean)
Open = Callable[[str], TensorFile]  # a contribution by its key


def merge_by_sum(
    folder: Path,
    base: Mapping[str, StateDict],
    wanted: Mapping[str, Entry],
    rule: AdditiveRule,
    opened: Open,
) -> StateDict:
    """Return the merged model; read only what changed since the last time.

    Args:
        folder: Folder of the sums.
        base: The base model, under its digest.
        wanted: The contributions that count, by a key that stands for the contribution and its
            discount.
        rule: One of `ADDITIVE`; a sum serves every `scale`.
        opened: Opens the contribution of a key, also of one that no longer counts.

    Raises:
        ConfigError: The sum could overflow 64 bits.
        ModelInvalid: A contribution belongs to another network.
    """
    ((digest, state),) = base.items()
    path = folder / f"{digest[:16]}-{type(rule).__name__}-{rule.fraction_bits}.safetensors"
    total = _kept(path, wanted)
    if total is None:
        folder.mkdir(parents=True, exist_ok=True)
        total = Accumulator.create(path, state, rule)
    try:
        for key in sorted(set(total.members) - set(wanted)):
            with opened(key) as file:
                total = total.remove(file, key)
    except ContributionDamaged:  # what is to be removed cannot be read any more
        total = Accumulator.create(path, state, rule)
    for key in sorted(set(wanted) - set(total.members)):
        with opened(key) as file:
            total = total.add(file, key, wanted[key].num_examples)
    return replace(total, rule=rule).result(state)


def _kept(path: Path, wanted: Mapping[str, Entry]) -> Accumulator | None:
    """Return the sum that was kept, unless changing it is more work than making it again.

    None also if there is none.
    """
    try:
        kept = Accumulator.open(path)
    except ModelInvalid:
        return None
    changes = len(set(kept.members) ^ set(wanted))
    return kept if changes <= len(wanted) else None
