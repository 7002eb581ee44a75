"""Sums that a hospital hands over for a closed-form head, over its labelled cases.

With x the features of a case (the input of the network's last linear layer) and a 1 behind them for
the bias, X all cases and Y their classes one-hot: G = X^T X and B = X^T Y. Counts, means and the
scatter within classes follow from these two. Both are additive over hospitals.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError, LabelInvalid, ModelInvalid, TooFewSubjects
from polyclinic.learning.modes import training_mode
from polyclinic.learning.preparation import Sample
from polyclinic.learning.state_dict import StateDict
from polyclinic.learning.training import infer
from polyclinic.store.refusals import ContributionDamaged

PREFIX = "head_moments/"
_PARTS = {
    part: tuple(f"{PREFIX}{part}.{half}" for half in ("high", "low")) for part in ("gram", "cross")
}


@dataclass(frozen=True, eq=False)
class HeadMoments:
    """The sums G and B of one hospital, or of several.

    They reveal class means, which over few examples are close to single patients, and the second
    moments of features. From these, inputs of a shallow network can be reconstructed, and of a deep
    one at least the most frequent directions. The difference between two contributions of a
    hospital is the moments of the patients that came or went in between: of one patient, that
    patient's features.

    Attributes:
        gram: G = X^T X, symmetric bit for bit; its last input is the constant 1, the others are the
            features.
        cross: B = X^T Y, one column for each class; its last row holds the counts.
    """

    gram: Float64[Tensor, "inputs inputs"]
    cross: Float64[Tensor, "inputs classes"]

    def __post_init__(self) -> None:
        width = len(self.cross)
        if self.cross.ndim != 2 or width < 2 or self.gram.shape != (width, width):
            raise ValueError(
                f"G of shape {tuple(self.gram.shape)} and B of shape {tuple(self.cross.shape)} do "
                "not belong together"
            )
        if {self.gram.dtype, self.cross.dtype} != {torch.float64}:
            raise ValueError(f"G is {self.gram.dtype} and B {self.cross.dtype}: both are float64")

    @property
    def counts(self) -> Float64[Tensor, " classes"]:
        """Number of examples of each class, n_c; whole numbers, 0 where nothing is told."""
        return self.cross[-1]

    @property
    def means(self) -> Float64[Tensor, "classes features"]:
        """Mean features of each class, m_c; 0 where nothing is told."""
        return (self.cross[:-1] / self.counts.clamp_min(1.0)).T

    @property
    def mean(self) -> Float64[Tensor, " features"]:
        """Mean features of all examples."""
        return self.gram[-1, :-1] / self.gram[-1, -1].clamp_min(1.0)

    @property
    def scatter(self) -> Float64[Tensor, "features features"]:
        """Scatter around the class means, summed over classes: G - sum_c n_c m_c m_c^T.

        In a sum of hospitals, the means are common to all of them.
        """
        sums = self.cross[:-1]
        return self.gram[:-1, :-1] - (sums / self.counts.clamp_min(1.0)) @ sums.T

    def centred(self) -> "HeadMoments":
        """Return the moments of features less `mean`.

        This removes what stains and cameras add to all features of a hospital.
        """
        shift = torch.eye(len(self.cross), dtype=torch.float64)
        shift[:-1, -1] = -self.mean
        gram = shift @ self.gram @ shift.T
        return HeadMoments(gram.triu() + gram.triu(1).T, shift @ self.cross)

    def pack(self) -> Float64[Tensor, " numbers"]:
        """Return G's upper triangle row by row, then B: the vector to be summed or sent."""
        rows, columns = torch.triu_indices(*self.gram.shape)
        return torch.cat([self.gram[rows, columns], self.cross.flatten()])


def unpack_moments(vector: Float64[Tensor, " numbers"], features: int, classes: int) -> HeadMoments:
    """Invert `HeadMoments.pack`.

    Raises:
        ValueError: The vector does not have the length of such moments.
    """
    width = features + 1
    rows, columns = torch.triu_indices(width, width)
    triangle, cross = vector.split_with_sizes([len(rows), width * classes])
    gram = vector.new_empty(width, width)
    gram[rows, columns] = triangle
    gram[columns, rows] = triangle
    return HeadMoments(gram, cross.reshape(width, classes).clone())


def last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    """Return name and layer of a classification network's head: its last registered linear layer.

    Raises:
        ModelInvalid: The network has no linear layer.
    """
    found = [
        (name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)
    ]
    if not found:
        raise ModelInvalid(
            f"{type(network).__name__} has no linear layer: choose a classification network, such "
            "as model=densenet."
        )
    return found[-1]


def head_features(
    network: nn.Module, cases: Iterable[Sample], data: DataConfig
) -> tuple[Float64[Tensor, "cases features"], Int64[Tensor, " cases"]]:
    """Return the input of the head, and the class, of each case; both stay at the hospital.

    Args:
        network: Read in evaluation mode; left as it was.
        cases: Labelled, such as `PreparedSite.training`; read once, without augmentation. Each case
            of 1,280 features keeps 5 KB of memory.
        data: Task, labels and patch. For a volume that a 2-D network reads in slices, the mean over
            slices is returned, as its logits are.

    Raises:
        ConfigError: The task is not classification.
        LabelInvalid: A case has no class.
        ModelInvalid: The network's output is not that of its last linear layer.
    """
    if data.task != "classification":
        raise ConfigError(
            f"Closed-form heads are for classification, data.task is {data.task}: choose such a "
            "data set, or another strategy."
        )
    name, layer = last_linear(network)
    entered: list[Tensor] = []
    answered: list[Tensor] = []

    def record(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        entered.append(inputs[0])
        answered.append(output)

    rows, labels = [], []
    hook = layer.register_forward_hook(record)
    try:
        with training_mode(network, train=False), torch.inference_mode():
            for sample in cases:
                labels.append(_class_of(sample, data))
                logits = infer(network, sample.image, data)
                if not answered or not torch.equal(torch.cat(answered).mean(0), logits):
                    raise ModelInvalid(
                        f"{name} is not what {type(network).__name__} answers with: choose a "
                        "network whose last layer is linear."
                    )
                rows.append(torch.cat(entered).mean(0).float().cpu())
                entered.clear()
                answered.clear()
    finally:
        hook.remove()
    empty = torch.zeros(0, layer.in_features)
    features = (torch.stack(rows) if rows else empty).double()
    return features, torch.tensor(labels, dtype=torch.int64)


def moments_of(
    features: Float64[Tensor, "cases features"],
    labels: Int64[Tensor, " cases"],
    classes: int,
    min_examples: int = 1,
) -> HeadMoments:
    """Return the moments of features.

    Args:
        features: One row for each case.
        labels: 0 .. classes - 1.
        classes: Number of classes.
        min_examples: Cases of classes with fewer examples count neither in B nor in G.

    Raises:
        TooFewSubjects: No class has so many examples.
        ValueError: The shapes do not fit each other, or a label is out of range.
    """
    if features.ndim != 2 or labels.shape != (len(features),):
        raise ValueError(
            f"features of shape {tuple(features.shape)} and labels of shape {tuple(labels.shape)} "
            "do not belong together"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"classes {int(labels.min())} .. {int(labels.max())}, expected 0 .. {classes - 1}"
        )
    counts = torch.bincount(labels, minlength=classes)
    told = counts >= max(1, min_examples)
    if not bool(told.any()):
        raise TooFewSubjects(int(counts.max()), min_examples)
    kept = told[labels]
    rows = nn.functional.pad(features[kept].double(), (0, 1), value=1.0)
    gram = rows.T @ rows
    return HeadMoments(
        gram.triu() + gram.triu(1).T, rows.T @ nn.functional.one_hot(labels[kept], classes).double()
    )


def to_state(moments: HeadMoments) -> StateDict:
    """Encode moments as float32 tensors, to travel as statistics of a contribution.

    Each number is the sum of two float32, G is sent as its triangle. A number that comes back
    differs by at most 2^-48 of itself (3.6e-15; below 2^-100 by at most 2^-149); counts, and any
    second trip, are exact. 1,280 features and 4 classes take 6.6 MB.

    Raises:
        ModelInvalid: A number is too large for float32, NaN or Inf.
    """
    length = len(moments.cross) * (len(moments.cross) + 1) // 2
    triangle = moments.pack()[:length]
    state: StateDict = {}
    for part, exact in (("gram", triangle), ("cross", moments.cross)):
        high = exact.float()
        if not bool(torch.isfinite(high).all()):
            raise ModelInvalid(
                "The network's features contain NaN or Inf, or are larger than float32 holds: "
                "train it again."
            )
        state |= zip(_PARTS[part], (high, (exact - high.double()).float()), strict=True)
    return state


def from_state(state: Mapping[str, Tensor], where: str = "a contribution") -> HeadMoments:
    """Invert `to_state`.

    Args:
        state: Tensors; others in it are ignored.
        where: Name of their origin, for the error.

    Raises:
        ContributionDamaged: They are missing, have wrong shapes, are not finite, or are not sums
            over cases.
    """
    try:
        triangle, cross = (
            state[high].double() + state[low].double() for high, low in _PARTS.values()
        )
        width, classes = cross.shape
        moments = unpack_moments(torch.cat([triangle, cross.flatten()]), width - 1, classes)
    except (KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise ContributionDamaged(
            where, f"its {PREFIX} tensors are missing or of wrong shapes"
        ) from error
    counts, total = moments.counts, moments.gram[-1, -1]
    sound = (
        torch.isfinite(moments.pack()).all(),
        (counts == counts.round()).all() and (counts >= 0).all(),
        counts.sum() == total > 0,
        (moments.gram.diagonal() >= 0).all(),
    )
    if not all(map(bool, sound)):
        raise ContributionDamaged(where, f"its {PREFIX} tensors are not sums over cases")
    return moments


def _class_of(sample: Sample, data: DataConfig) -> int:
    if not isinstance(sample.label, int) or not 0 <= sample.label < len(data.labels):
        found = [sample.label] if isinstance(sample.label, int) else []
        raise LabelInvalid(sample.case.image[0], found, range(len(data.labels)))
    return sample.label
