"""Which validation cases a round scores."""

import torch


def draw_places(count: int, most: int, seed: int) -> list[int]:
    """Draw the cases that are scored after each round: the same ones, so that rounds compare.

    Args:
        count: Number of cases.
        most: The most that are drawn; 0: all.
        seed: Of the run.
    """
    if most == 0 or most >= count:
        return list(range(count))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:most].tolist())
