"""Linear probe: a head that is fitted to its optimum on features that stay as they are.

Validation cases choose the penalty.

Logistic regression with an L2 penalty, by L-BFGS: no learning rate and no number of passes could
favour one encoder over another.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from polyclinic.config.schemas import DataConfig
from polyclinic.learning.crops import as_batch
from polyclinic.learning.metrics import recall_per_class, summarize
from polyclinic.learning.modes import training_mode
from polyclinic.learning.preparation import PreparedSite, Sample
from polyclinic.learning.training import device_of, evaluate
from polyclinic_strategies.universal.networks.encoders import embed, read_at
from polyclinic_strategies.universal.networks.network import Head, UniversalNetwork

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # on the squared weights
ITERATIONS = 100
AT_ONCE = 64  # images that the network reads together
# of each slice or volume of a segmentation: half anywhere, half equally among its classes
PLACES = 128
SLICES = 4  # of a volume that a 2-D network reads


def probe(network: UniversalNetwork, prepared: PreparedSite) -> float:
    """Fit the attached head to a hospital's training cases; the encoder stays as it is.

    The same cases give the same head.

    Args:
        network: With a head; its head is changed in place.
        prepared: The hospital's cases.

    Returns:
        The validation score with the penalty that was chosen.
    """
    head = network.head
    if head is None:
        raise ValueError("the network has no head: attach one first")
    samples = list(prepared.training)
    rows, labels = _rows(network, samples, prepared.data)
    rows = head.eval().calibrate(rows.to(device_of(network))).cpu()
    judge = _judge(network, head, prepared)
    best, chosen = -1.0, None
    for penalty in PENALTIES:
        weight, bias = fit_logistic(
            rows, labels, len(prepared.data.labels), penalty, balanced=not head.dense
        )
        _write(head, weight, bias)
        score = judge()
        if chosen is None or score > best:
            best, chosen = score, (weight, bias)
    assert chosen is not None
    _write(head, *chosen)
    return best


def embeddings(
    network: UniversalNetwork,
    images: Iterable[Tensor],
    data: DataConfig,
    summary: Callable[[Sequence[Tensor]], Tensor] = embed,
) -> Float[Tensor, "images numbers"]:
    """Compute one vector for each prepared image; of a volume's slices the mean.

    Args:
        network: With or without a head; left as it was.
        images: float32, CXYZ.
        data: Patch and channels.
        summary: What makes one vector of an encoder's maps.

    Returns:
        On the CPU.
    """
    device, found = device_of(network), []
    with training_mode(network, train=False), torch.inference_mode():
        for group in _grouped(as_batch(image, data) for image in images):
            rows = torch.cat(
                [
                    summary(network.maps(part.to(device))).cpu()
                    for part in torch.split(torch.cat(group), AT_ONCE)
                ]
            )
            found += [each.mean(0) for each in torch.split(rows, [len(batch) for batch in group])]
    return torch.stack(found)


def _grouped(batches: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Group as many as the network reads at once, and one at least."""
    group: list[Tensor] = []
    for batch in batches:
        if group and sum(map(len, group)) + len(batch) > AT_ONCE:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group


def fit_logistic(
    rows: Float[Tensor, "rows numbers"],
    labels: Tensor,
    classes: int,
    penalty: float,
    *,
    balanced: bool,
) -> tuple[Float[Tensor, "classes numbers"], Float[Tensor, " classes"]]:
    """Fit a multinomial logistic regression.

    Args:
        rows: Features, standardized.
        labels: int64, (rows,).
        classes: Number of classes, whether they occur or not.
        penalty: Weight of the squared weights.
        balanced: Every class counts alike, however often it occurs.

    Returns:
        Weight and bias.
    """
    counts = torch.bincount(labels, minlength=classes).clamp_min(1)
    importance = (len(labels) / (classes * counts)).float() if balanced else None
    weight = torch.zeros(classes, rows.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            functional.cross_entropy(rows @ weight.T + bias, labels, importance)
            + penalty * weight.square().sum()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _judge(network: UniversalNetwork, head: Head, prepared: PreparedSite) -> Callable[[], float]:
    """Make what scores the head as it is on the validation cases.

    The features of a classification are computed once, and not for each head.
    """
    if head.dense:
        return lambda: evaluate(network, prepared.validation, prepared.data).score
    rows, truths = _rows(network, list(prepared.validation), prepared.data)
    rows = rows.to(device_of(network))

    def score() -> float:
        with torch.inference_mode():
            guesses = head.read(rows).argmax(1).cpu()
        recalls = recall_per_class(guesses, truths, len(prepared.data.labels))
        return summarize([recalls], prepared.data.labels, None, len(truths)).score

    return score


def _rows(
    network: UniversalNetwork, samples: list[Sample], data: DataConfig
) -> tuple[Tensor, Tensor]:
    """Compute features and labels: a row for each case, or for each place of a segmentation."""
    assert network.head is not None
    if not network.head.dense:
        labels = torch.tensor([sample.label for sample in samples])
        return embeddings(network, (sample.image for sample in samples), data), labels
    generator = torch.Generator().manual_seed(0)
    pairs = [pair for sample in samples for pair in _places(network, sample, data, generator)]
    return torch.cat([rows for rows, _ in pairs]), torch.cat([labels for _, labels in pairs])


def _places(
    network: UniversalNetwork, sample: Sample, data: DataConfig, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield features at some places of a case, and the labels there."""
    assert isinstance(sample.label, Tensor)
    images, drawn = (
        as_batch(sample.image, data, SLICES),
        as_batch(sample.label.float(), data, SLICES).long()[:, 0],
    )
    with training_mode(network, train=False), torch.inference_mode():
        maps = network.maps(images.to(device_of(network)))
    for number, label in enumerate(drawn):
        flat = label.flatten()
        present = [torch.nonzero(flat == value)[:, 0] for value in flat.unique()]
        each = PLACES // 2 // len(present)
        anywhere = torch.randint(len(flat), (PLACES // 2,), generator=generator)
        equally = [
            where[torch.randint(len(where), (each,), generator=generator)] for where in present
        ]
        chosen = torch.cat([anywhere, *equally])
        places = torch.stack(torch.unravel_index(chosen, label.shape), -1).float()
        here = [features[number : number + 1] for features in maps]
        yield read_at(here, places[None].to(here[0].device), label.shape)[0].cpu(), flat[chosen]


def _write(head: Head, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias)
