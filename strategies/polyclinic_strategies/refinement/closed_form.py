"""Heads and layers in closed form from sums over hospitals: joining, updating and withdrawing are an addition and a subtraction.

With frozen features the ridge regression of the pooled data follows from sums, whatever the
partition: AFL, He et al. 2024, https://arxiv.org/abs/2405.16240, and Fed3R, Fani et al. 2024,
https://arxiv.org/abs/2406.01116. RegMean, Jin et al. 2023, https://arxiv.org/abs/2212.09849, does
the same for layers whose weights every hospital trained itself.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from polyclinic.describing.moments import HeadMoments, last_linear, unpack_moments
from polyclinic.errors import ConfigError
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.merging.arithmetic.layer import require
from polyclinic_strategies.merging.arithmetic.matrices import nearest_solution
from polyclinic_strategies.refinement.exact_sum import ExactSum

Head = tuple[Float64[Tensor, "classes features"], Float64[Tensor, " classes"]]  # weight and bias


class AdditiveMoments:
    """The moments of all hospitals together, as an `ExactSum`.

    Args:
        features: That enter the head.
        classes: That it tells apart.
    """

    def __init__(self, features: int, classes: int) -> None:
        self.features, self.classes = features, classes
        self._sum = ExactSum((features + 1) * (features + 2) // 2 + (features + 1) * classes)

    @property
    def sites(self) -> frozenset[str]:
        """Who is in it."""
        return self._sum.sites

    def add(self, site: str, moments: HeadMoments) -> None:
        """Add a hospital; raises as `ExactSum.add`."""
        self._sum.add(site, self._pack(moments))

    def remove(self, site: str, moments: HeadMoments) -> None:
        """Take a hospital out, bit for bit as if it had never been there; raises as `ExactSum.remove`."""
        self._sum.remove(site, self._pack(moments))

    def total(self) -> HeadMoments:
        """The sum, rounded to float64 at the end.

        Raises:
            ValueError: Nobody is in it.
        """
        return unpack_moments(self._sum.total(), self.features, self.classes)

    def _pack(self, moments: HeadMoments) -> Tensor:
        expected = (self.features + 1, self.classes)
        require(
            moments.cross.shape == expected,
            f"moments of shape {tuple(moments.cross.shape)}, expected {expected}.",
        )
        return moments.pack()


class AdditiveLayer:
    """RegMean of one layer over hospitals that come and go, as an `ExactSum` of G_i, W_i G_i and W_i.

    Args:
        outputs: Rows of the weight as a matrix.
        inputs: Its columns; of a convolution channels times kernel.
        off_diagonal: What off-diagonal entries of each G_i are multiplied with, in [0, 1].
    """

    def __init__(self, outputs: int, inputs: int, off_diagonal: float = 0.95) -> None:
        require(0 <= off_diagonal <= 1, f"off_diagonal={off_diagonal}: from 0 to 1.")
        self.outputs, self.inputs, self.off_diagonal = outputs, inputs, off_diagonal
        self._sum = ExactSum(inputs * inputs + 2 * outputs * inputs, "The Gram matrices of a layer")

    def add(
        self,
        site: str,
        gram: Float[Tensor, "inputs inputs"],
        weight: Float[Tensor, "outputs *rest"],
    ) -> None:
        """Add a hospital; raises as `ExactSum.add`, and ValueError for other shapes."""
        self._sum.add(site, self._pack(gram, weight))

    def remove(
        self,
        site: str,
        gram: Float[Tensor, "inputs inputs"],
        weight: Float[Tensor, "outputs *rest"],
    ) -> None:
        """Take a hospital out, bit for bit as if it had never been there; raises as `ExactSum.remove`."""
        self._sum.remove(site, self._pack(gram, weight))

    def merged(self) -> Float64[Tensor, "outputs inputs"]:
        """sum_i W_i G_i (sum_i G_i)^-1; inputs that no hospital ever saw keep the mean weight.

        Raises:
            ValueError: Nobody is in it.
        """
        sizes = (self.inputs * self.inputs, self.outputs * self.inputs, self.outputs * self.inputs)
        gram, cross, weights = self._sum.total().split_with_sizes(sizes)
        total, shape = gram.reshape(self.inputs, self.inputs), (self.outputs, self.inputs)
        mean = weights.reshape(shape) / len(self._sum.sites)
        return nearest_solution(mean, cross.reshape(shape) - mean @ total, total)

    def _pack(self, gram: Tensor, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1).double()
        require(
            gram.shape == (self.inputs, self.inputs),
            f"a Gram matrix of shape {tuple(gram.shape)}, {self.inputs} inputs.",
        )
        require(
            matrix.shape == (self.outputs, self.inputs),
            f"a weight of shape {tuple(weight.shape)}, expected {self.outputs} rows.",
        )
        shrunk = gram.double() * self.off_diagonal
        shrunk.diagonal().copy_(gram.diagonal())
        return torch.cat([shrunk.flatten(), (matrix @ shrunk).flatten(), matrix.flatten()])


def regmean_layer(
    grams: Sequence[Tensor], weights: Sequence[Tensor], off_diagonal: float = 0.95
) -> Tensor:
    """The weight whose outputs are nearest to every hospital's own on that hospital's inputs: sum_i W_i G_i (sum_i G_i)^-1.

    Args:
        grams: G_i, (inputs, inputs), as `gram_matrices` makes them.
        weights: W_i, (outputs, ...), of a linear layer or a convolution without groups.
        off_diagonal: What off-diagonal entries of each G_i are multiplied with; the paper's is 0.9
            to 0.95.

    Returns:
        float64, in the weights' shape, the same bits for any order of hospitals.

    Raises:
        ValueError: No hospital, or shapes that do not belong together.

    RegMean, Jin et al. 2023, https://arxiv.org/abs/2212.09849.
    """
    require(
        len(grams) == len(weights) > 0, f"{len(grams)} Gram matrices and {len(weights)} weights."
    )
    sums = AdditiveLayer(len(weights[0]), weights[0][0].numel(), off_diagonal)
    for number, (gram, weight) in enumerate(zip(grams, weights, strict=True)):
        sums.add(str(number), gram, weight)
    return sums.merged().reshape(weights[0].shape)


def ridge_head(
    gram: Float64[Tensor, "inputs inputs"],
    cross: Float64[Tensor, "inputs classes"],
    ridge: float,
    *,
    balanced: bool = False,
) -> Head:
    """The head that regresses classes, one-hot, on features: W = (G + ridge I)^-1 B.

    Its answers are about 0 to 1, and not logits: their order is what counts. A class that nobody
    told of answers 0.

    Args:
        gram: Sum of hospitals' G; the last of its inputs is the constant 1, which is regularized as
            the others are.
        cross: Sum of their B.
        ridge: At least 0.
        balanced: Every class counts as if it had as many examples as the others: each mean m_c with
            weight n / C instead of n_c. That is dividing each example's weight by its class's
            count, exactly so where classes scatter alike (weighting in general would need a G of
            each class).

    Returns:
        Weight (classes, features) and bias (classes,).

    Raises:
        ConfigError: G + ridge I is not positive definite.
        ValueError: Shapes that do not belong together, a negative `ridge`, or no example.

    AFL, He et al. 2024, https://arxiv.org/abs/2405.16240; Fed3R, Fani et al. 2024,
    https://arxiv.org/abs/2406.01116.
    """
    require(ridge >= 0, f"ridge={ridge}: at least 0.")
    counts = HeadMoments(gram, cross).counts
    told = counts > 0
    require(bool(told.any()), "the moments hold no example.")
    if balanced:
        equal = counts.sum() / told.sum() * told
        means = cross / counts.clamp_min(1.0)
        gram, cross = gram + (means * (equal - counts)) @ means.T, means * equal
    solved = _solve(gram, cross, ridge, "ridge")
    return solved[:-1].T.contiguous(), solved[-1].clone()


def uncentred(head: Head, mean: Float64[Tensor, " features"]) -> Head:
    """A head made of `HeadMoments.centred` for one hospital: W x + b - W mean.

    Args:
        head: Weight and bias.
        mean: Of that hospital's features; no labels are needed for it, so that it serves a hospital
            that has none.
    """
    weight, bias = head
    return weight, bias - weight @ mean


def head_from(network: nn.Module) -> Head:
    """Weight and bias of a network's head, float64; a bias that it lacks is 0.

    Raises:
        ModelInvalid: It has no linear layer.
    """
    _, layer = last_linear(network)
    weight = layer.weight.detach().double()
    bias = (
        layer.bias.detach().double()
        if isinstance(layer.bias, Tensor)
        else weight.new_zeros(len(weight))
    )
    return weight, bias


def with_head(
    state: Mapping[str, Tensor],
    weight: Float[Tensor, "classes features"],
    bias: Float[Tensor, " classes"],
    name: str,
) -> StateDict:
    """A network's state with another head, in the types that it has.

    Args:
        state: Of the whole network; not changed.
        weight: From one of the functions here.
        bias: From the same.
        name: Of the head, from `last_linear`.

    Raises:
        ValueError: The network has no such head, of this shape and with a bias.
    """
    changed: StateDict = dict(state)
    for key, value in ((f"{name}.weight".lstrip("."), weight), (f"{name}.bias".lstrip("."), bias)):
        require(key in state, f"{key}: the network has no such tensor.")
        require(
            state[key].shape == value.shape,
            f"{key}: shape {tuple(value.shape)}, expected {tuple(state[key].shape)}.",
        )
        changed[key] = value.to(state[key])
    return changed


def _solve(matrix: Tensor, right: Tensor, ridge: float, setting: str) -> Tensor:
    """(matrix + ridge I)^-1 right by Cholesky."""
    shifted = matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if int(failed):
        raise ConfigError(
            f"{setting}={ridge:g}: too small, fewer examples than features leave the head "
            "undetermined. Set a larger one."
        )
    return torch.cholesky_solve(right, factor)
