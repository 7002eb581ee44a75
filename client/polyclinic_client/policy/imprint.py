"""A guard against models that are made to hold images instead of to learn from them.

A coordinator that may choose the weights can choose ones for which an update *is* the images. In
"Robbing the Fed" (Fowl et al. 2022, https://arxiv.org/abs/2110.13057) all rows of a layer measure
the same thing, such as the mean brightness, and their biases cut its range into bins: the
difference of two neighbouring rows' gradients is the image that fell between them. In front of such
a layer, convolutions that only copy the image carry it there unchanged. MedLeak
(https://arxiv.org/abs/2407.09972) does so for medical images.

Two signs are looked for in every tensor of weights:

- **parallel rows**: many rows w_i, w_j with |<w_i, w_j>| > `PARALLEL` |w_i| |w_j|. Rows of an
  honest layer are drawn independently, and training moves them apart;
- **copying rows**: many rows of which one single number is not zero.

It is a guard against known constructions, not a proof: weights that hide their purpose better pass.
Small groups of an update's members, and everything that secure sums and noise protect, do not
depend on it.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from polyclinic.errors import NotAllowed

LEAST_ROWS = 8  # a layer with fewer holds fewer images than a batch has
LEAST_LENGTH = 9  # shorter rows are parallel by chance
PARALLEL = 0.9  # cosine; of independent rows it is about 1 / sqrt(length)
SHARE = 0.25  # of a layer's rows that may look so
# rows that see a single channel, such as those of depthwise convolutions: blurs resemble each other
NARROW, NARROW_PARALLEL, NARROW_SHARE = 50, 0.999, 0.5
MOST_ROWS = 1024  # that are compared; of more, evenly spread ones
NOTHING = 1e-6  # share of the largest number below which a number counts as zero


def check_imprint(state: Mapping[str, Tensor]) -> None:
    """Refuse a model whose weights carry an imprint.

    Raises:
        NotAllowed: The tensor, and what was found.
    """
    for name, tensor in state.items():
        if (found := find_imprint(tensor)) is not None:
            raise NotAllowed(
                f"The weights of '{name[:100]}' are made to hold images, not to learn from them "
                f"({found}): this hospital does not train with them",
                "If the model is honest, say so to the hospital: imprint_guard in its policy.yaml.",
            )


def find_imprint(tensor: Tensor) -> str | None:
    """Say what is wrong with a tensor of weights; None where nothing is.

    Args:
        tensor: Shape (outputs, inputs, ...); other shapes are no layer's weights.
    """
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return None
    narrow = tensor.ndim > 2 and tensor.shape[1] == 1 and tensor[0].numel() < NARROW
    by_outputs = tensor.detach().flatten(1)
    views = [by_outputs]
    if tensor.ndim > 2 and not narrow:
        views.append(tensor.detach().transpose(0, 1).flatten(1))  # a transposed convolution's
    for rows in views:
        if rows.shape[0] < LEAST_ROWS or rows.shape[1] < LEAST_LENGTH:
            continue
        if (share := copying_share(rows)) > SHARE:
            return f"{100 * share:.0f} % of its rows copy one number"
        limit = NARROW_SHARE if narrow else SHARE
        share = parallel_share(rows, NARROW_PARALLEL if narrow else PARALLEL)
        if share > limit:
            return f"{100 * share:.0f} % of its rows measure the same"
    return None


def parallel_share(rows: Float[Tensor, "rows length"], least: float) -> float:
    """Return the share of rows that are parallel to one and the same row.

    Args:
        rows: One for each output.
        least: Cosine from which on two rows count as parallel, whatever their signs.
    """
    living = _living(rows)
    if len(living) < LEAST_ROWS:
        return 0.0
    units = torch.nn.functional.normalize(living, dim=1)
    alike = (units @ units.T).abs() > least
    largest = int(alike.sum(1).max())
    return largest / len(living) if largest >= LEAST_ROWS else 0.0


def copying_share(rows: Float[Tensor, "rows length"]) -> float:
    """Return the share of rows with one single number that is not zero."""
    living = _living(rows)
    if len(living) < LEAST_ROWS:
        return 0.0
    largest = living.abs().amax(1, keepdim=True)
    counts = (living.abs() > NOTHING * largest).sum(1)
    return float((counts == 1).double().mean())


def _living(rows: Float[Tensor, "rows length"]) -> Float[Tensor, "some length"]:
    """Return rows that are not zero, evenly spread ones of many."""
    lengths = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    largest = float(lengths.max()) if len(rows) else 0.0
    if not math.isfinite(largest) or largest == 0:
        return rows[:0].float()
    living = rows[lengths > NOTHING * largest].float()
    return living[:: math.ceil(len(living) / MOST_ROWS)] if len(living) else living
