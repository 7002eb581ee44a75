"""Work on large tensors piece by piece, several pieces at a time.

A piece of all operands stays in a core's cache. It is smaller than what torch splits among threads,
so torch computes it on the calling thread: pieces never wait for each other, and rounding does not
depend on the number of threads.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

# Length of a piece; torch splits from 32 * 1024 on. DARE draws its masks per piece: another value
# gives other masks.
PIECE = 31 * 1024
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply `work` to every item, on as many threads as torch may use; keep the order."""
    listed = list(items)
    threads = min(torch.get_num_threads(), len(listed))
    if threads < 2:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, listed))


def in_pieces(work: Callable[[slice], Result], length: int) -> list[Result]:
    """Apply `work` to every piece of a vector of this length."""
    return in_parallel(
        work, [slice(start, min(start + PIECE, length)) for start in range(0, length, PIECE)]
    )
