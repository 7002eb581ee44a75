"""Which patients train, validate and test: stable from import to import, and near the shares."""

from collections import Counter
from collections.abc import Iterable, Mapping

from polyclinic.imaging.dataset_json import Split

SHARES: dict[Split, float] = {"training": 0.7, "validation": 0.1, "test": 0.2}


def split_patients(
    patients: Iterable[str], known: Mapping[str, Split] | None = None
) -> dict[str, Split]:
    """Give every patient a split; whoever has one keeps it.

    Args:
        patients: Their names, which are keyed hashes: their order is as good as a draw.
        known: Splits of earlier imports.
    """
    found = dict(known or {})
    counts = Counter(found.values())
    for patient in sorted(set(patients) - set(found)):
        total = len(found) + 1
        lacking = {n: round(share * total - counts[n], 6) for n, share in SHARES.items()}
        chosen = max(lacking, key=lambda split: lacking[split])  # the first of equals
        found[patient] = chosen
        counts[chosen] += 1
    return found
