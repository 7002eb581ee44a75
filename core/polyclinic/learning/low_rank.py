"""Task vectors of low rank: two thin matrices of each layer travel instead of the whole.

A layer's task vector W (out, in x kernel) is U D with U (out, rank), D (rank, in x kernel): the
best approximation of that rank (Eckart and Young 1936). Task vectors of matrices lose little by it:
TSV-Compress, Gargiulo et al. 2025, https://arxiv.org/abs/2412.00081. Unlike with LoRA, the whole
network is trained.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def factorize(
    vector: Float[Tensor, "..."], rank: int
) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank ..."]] | None:
    """Return the factors of a layer's task vector; None where they would not be smaller.

    Args:
        vector: (out, *rest), finite.
        rank: At least 1.

    Returns:
        U (out, rank), and D (rank, *rest); float32. Of the same vector they are the same bits on
        the same machine.
    """
    if vector.dim() < 2 or rank * (len(vector) + math.prod(vector.shape[1:])) >= vector.numel():
        return None
    left, lengths, right = torch.linalg.svd(vector.double().flatten(1), full_matrices=False)
    half = lengths[:rank].sqrt()
    down = (half[:, None] * right[:rank]).reshape(rank, *vector.shape[1:])
    return (left[:, :rank] * half).float().contiguous(), down.float().contiguous()


def expand(
    up: Float[Tensor, "out rank"], down: Float[Tensor, "rank ..."]
) -> Float[Tensor, "out ..."]:
    """Return the task vector that two factors make, (out, *rest), float32."""
    return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])
