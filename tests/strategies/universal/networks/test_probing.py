"""A linear probe: a head on an encoder that stays as it is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import Case, SiteDataset
from polyclinic.learning.preparation import PreparedSite, Sample
from polyclinic.learning.site_tasks import SiteTask
from polyclinic.learning.training import evaluate
from polyclinic_strategies.universal.networks.encoders import ConvolutionalEncoder, average
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.networks.probing import embeddings, fit_logistic, probe

CLASSES = SiteTask("classification", 3, 1, 2)
DENSE = SiteTask("segmentation", 2, 1, 2)


def data(task: SiteTask) -> DataConfig:
    labels = tuple(f"class {number}" for number in range(task.classes))
    return DataConfig(task.kind, task.channels, labels, "LPS", None, (16, 16), 1, 1.0, (), ())  # type: ignore[arg-type]


def network(task: SiteTask | None, seed: int = 0) -> UniversalNetwork:
    torch.manual_seed(seed)
    one = UniversalNetwork(ConvolutionalEncoder(2, 3, [16, 16], [8, 16]))
    if task is not None:
        one.attach_head(task)
    return one


def sample(number: int, image: Tensor, label: Tensor | int) -> Sample:
    case = Case(
        f"{number}",
        (Path(f"{number}.png"),),
        label if isinstance(label, int) else Path("label.png"),
        "training",
    )
    return Sample(case, image[None, ..., None], label, torch.tensor([0]))


def stripes(label: int, rng: torch.Generator) -> Tensor:
    """A pattern whose direction is its class."""
    grid = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"))
    along = (grid[0], grid[1], grid[0] + grid[1])[label]
    return torch.sin(along + 6 * torch.rand((), generator=rng)) + 0.1 * torch.randn(
        16, 16, generator=rng
    )


def square(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    inside = torch.zeros(16, 16, dtype=torch.uint8)
    x, y = torch.randint(1, 7, (2,), generator=rng).tolist()
    inside[x : x + 8, y : y + 8] = 1
    return 2 * inside.float() - 1 + 0.1 * torch.randn(16, 16, generator=rng), inside[
        None, ..., None
    ]


def prepared(task: SiteTask) -> PreparedSite:
    rng = torch.Generator().manual_seed(0)
    if task.kind == "classification":
        samples = [sample(number, stripes(number % 3, rng), number % 3) for number in range(45)]
    else:
        samples = [sample(number, *square(rng)) for number in range(16)]
    dataset = SiteDataset(Path(), "made", ("grey",), data(task).labels, (), (), ())
    half = 2 * len(samples) // 3
    return PreparedSite(dataset, data(task), samples[:half], samples[half:])  # type: ignore[arg-type]


@pytest.mark.parametrize(("task", "least"), [(CLASSES, 0.9), (DENSE, 0.65)])
def test_what_can_be_separated_is_separated_and_the_encoder_stays(
    task: SiteTask, least: float
) -> None:
    one, site = network(task), prepared(task)
    before = {name: tensor.clone() for name, tensor in one.encoder.state_dict().items()}
    score = probe(one, site)
    assert score > least and score == evaluate(one, site.validation, site.data).score
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in one.encoder.state_dict().items()
    )
    assert all(weight.grad is None for weight in one.parameters())


@pytest.mark.parametrize("task", [CLASSES, DENSE])
def test_a_probe_is_the_same_every_time_whatever_the_head_was_and_the_world_s_randomness(
    task: SiteTask,
) -> None:
    one, other, site = network(task), network(None), prepared(task)
    torch.manual_seed(99)
    other.attach_head(task)  # another first head
    assert probe(one, site) == probe(other, site)
    assert all(
        torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items()
    )


def test_without_a_head_it_is_refused() -> None:
    with pytest.raises(ValueError, match="attach one first"):
        probe(network(None), prepared(CLASSES))


def test_an_embedding_of_a_volume_is_the_mean_over_its_slices() -> None:
    one = network(None).eval()
    volume = torch.rand(1, 16, 16, 3)
    with torch.inference_mode():
        slices = torch.stack([one(volume[None, ..., number])[0] for number in range(3)])
        assert_close(
            embeddings(one, [volume], data(CLASSES))[0], slices.mean(0), atol=1e-5, rtol=1e-4
        )
    assert embeddings(one, [volume] * 2, data(CLASSES), average).shape == (2, 24)


def test_the_regression_is_at_its_optimum_and_a_penalty_holds_it_back() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 5, generator=rng)
    labels = (rows[:, 0] + 0.5 * torch.randn(60, generator=rng) > 0).long()
    weight, bias = fit_logistic(rows, labels, 2, 0.01, balanced=False)
    weight.requires_grad_(), bias.requires_grad_()
    loss = functional.cross_entropy(rows @ weight.T + bias, labels) + 0.01 * weight.square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert float(gradient.abs().max()) < 1e-3
    held, _ = fit_logistic(rows, labels, 2, 1.0, balanced=False)
    assert float(held.norm()) < 0.5 * float(weight.detach().norm())


def test_balanced_classes_count_alike_and_a_class_without_cases_does_no_harm() -> None:
    rows, labels = torch.zeros(10, 1), torch.tensor([0] * 9 + [1])
    _, bias = fit_logistic(rows, labels, 2, 0.1, balanced=True)
    assert_close(bias.softmax(0), torch.tensor([0.5, 0.5]), atol=1e-2, rtol=0)
    _, bias = fit_logistic(rows, labels, 2, 0.1, balanced=False)
    assert_close(bias.softmax(0), torch.tensor([0.9, 0.1]), atol=1e-2, rtol=0)
    weight, bias = fit_logistic(rows, labels, 3, 0.1, balanced=True)
    assert weight.shape == (3, 1) and bool(torch.isfinite(bias).all())
