"""Which samples make a batch, and the number from which each draws its randomness."""

import math
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Generator
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One sample of a batch.

    Attributes:
        sample: Its place among all samples of a pass.
        number: Number of the sample in the whole training of a round, from 0.
        centred: Whether its patch lies around a foreground voxel.
    """

    sample: int
    number: int
    centred: bool = False


class Batches(Sampler[list[Draw]]):
    """All samples in random order, pass after pass; those of one case in a row if need be."""

    def __init__(
        self,
        counts: tuple[int, int],
        batch_size: int,
        generator: Generator,
        *,
        steps: int = 0,
        foreground_share: float = 0.0,
        in_a_row: bool = False,
    ) -> None:
        """Prepare the batches.

        Args:
            counts: Number of cases, and of samples of each case in a pass.
            batch_size: Number of samples; the last batch of a single pass may have fewer.
            generator: Draws the order.
            steps: Number of batches, all of full size, with as many passes as they need; 0: one
                pass each time that the batches are asked for.
            foreground_share: Share of each batch, the last ones in it, that is centred on the
                foreground: rounded, and at least one if it is not 0.
            in_a_row: Whether a case's samples follow each other, so that it is read once.
        """
        self.counts, self.batch_size, self.generator = counts, batch_size, generator
        self.steps, self.in_a_row = steps, in_a_row
        self.share = foreground_share
        self._number = 0

    def __len__(self) -> int:
        return self.steps or math.ceil(math.prod(self.counts) / self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        waiting: list[int] = []
        wanted, given = self.steps or math.inf, 0
        while given < wanted:
            waiting += self._order()
            while len(waiting) >= self.batch_size and given < wanted:
                yield self._batch(waiting[: self.batch_size])
                waiting, given = waiting[self.batch_size :], given + 1
            if not self.steps:
                break
        if waiting and not self.steps:
            yield self._batch(waiting)

    def _order(self) -> list[int]:
        cases, each = self.counts
        if not self.in_a_row:
            return list(torch.randperm(cases * each, generator=self.generator).tolist())
        order = torch.randperm(cases, generator=self.generator).tolist()
        return [case * each + place for case in order for place in range(each)]

    def _batch(self, indices: list[int]) -> list[Draw]:
        first, self._number = self._number, self._number + len(indices)
        centred = max(1, round(len(indices) * self.share)) if self.share > 0 else 0
        return [
            Draw(index, first + place, place >= len(indices) - centred)
            for place, index in enumerate(indices)
        ]


def seed_of(seed: int, number: int) -> int:
    """Return the seed of a round's sample: alike in every process that loads."""
    return int.from_bytes(sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
