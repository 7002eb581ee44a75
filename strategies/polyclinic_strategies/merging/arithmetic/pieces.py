"""Large tensors worked on piece by piece, several pieces at a time.

A piece of all operands stays in a core's cache, and torch computes it on the calling thread, since
it is smaller than what torch splits among threads: so pieces never wait for each other, and
rounding does not depend on how many there are at a time.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

# numbers; torch splits from 32 * 1024 on. DARE's masks are drawn per piece: another value draws
# others
PIECE = 31 * 1024
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of every item, on as many threads as torch may use; results in the items' order."""
    listed = list(items)
    threads = min(torch.get_num_threads(), len(listed))
    if threads < 2:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, listed))


def in_pieces(work: Callable[[slice], Result], length: int) -> list[Result]:
    """`work` on every piece of a vector of this length."""
    return in_parallel(
        work, [slice(start, min(start + PIECE, length)) for start in range(0, length, PIECE)]
    )
