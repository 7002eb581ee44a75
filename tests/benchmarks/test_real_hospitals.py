"""Folds, arms and tables of the benchmark of real hospitals."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from polyclinic.config.schemas import TrainingConfig
from polyclinic.imaging.datasets import Case, SiteDataset

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from personal_arms import BASELINES, Batch, Federation
from real_sites import divide
from real_table import show, summarize

TRAINING = TrainingConfig(
    epochs=1,
    batch_size=4,
    learning_rate=0.1,
    optimizer={"_target_": "torch.optim.SGD", "lr": 0.1},
    loss={"_target_": "torch.nn.CrossEntropyLoss"},
)


class Line:
    """A hospital whose class is the sign of a number, or its opposite."""

    size, cases = 8, 8

    def __init__(self, sign: float) -> None:
        self._images = torch.linspace(-1, 1, 8)[:, None]
        self._labels = (sign * self._images[:, 0] > 0).long()

    def batches(self, seed: int) -> Iterator[Batch]:
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        for chosen in order.split(4):
            yield self._images[chosen], self._labels[chosen]

    def score(self, network: nn.Module, _split: str) -> float:
        return float((network(self._images).argmax(1) == self._labels).float().mean())


def federation(*signs: float) -> Federation:
    torch.manual_seed(0)
    sites = {f"h{number}": Line(sign) for number, sign in enumerate(signs)}
    network = nn.Sequential(nn.Linear(1, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    return Federation(sites, network, TRAINING, 0)


def test_one_hospital_alone_is_its_own_federation() -> None:
    one = federation(1.0)
    _, averaged = one.average(3, at=2)
    alone = one.local(3)["h0"]
    assert all(torch.equal(averaged[name], alone[name]) for name in alone)
    (half,) = (one.passes(one.initial, "h0", range(2)),)
    assert all(torch.equal(one.kept[name], half[name]) for name in half)


@pytest.mark.parametrize("arm", ["local", "ditto", "apfl", "fedper"])
def test_personal_arms_serve_hospitals_that_contradict_each_other(arm: str) -> None:
    both = federation(1.0, -1.0)
    models = BASELINES[arm][0](both, 12)
    scores = [both.score(models[site], where, "test") for site, where in both.sites.items()]
    assert min(scores) > 0.8
    _, averaged = both.average(12)
    assert sum(both.score(averaged, where, "test") for where in both.sites.values()) == 1.0


def test_what_stays_at_a_hospital_is_what_the_papers_say() -> None:
    one = federation(1.0)
    assert one.head() == ["2.weight", "2.bias"]
    assert one.normalization() == ["1.weight", "1.bias"]


def test_folds_divide_patients_and_classes() -> None:
    cases = tuple(
        Case(f"{n}", (Path(f"/{n}.png"),), n % 2, "training", subject=f"p{n // 4}")
        for n in range(40)
    )
    dataset = SiteDataset(Path("/"), "h", ("red",), ("a", "b"), cases, (), ())
    tested = []
    for number in range(5):
        fold = divide(dataset, number, 5)
        splits = [{case.subject for case in part} for part in (fold.training, fold.validation)]
        own = {case.subject for case in fold.test}
        assert own and not any(own & other for other in splits) and not splits[0] & splits[1]
        tested += [case.name for case in fold.test]
    assert sorted(tested) == sorted(case.name for case in cases)


def test_a_table_by_hand() -> None:
    def cell(fold: int, arm: str, **scores: float) -> dict[str, object]:
        return {"fold": fold, "left": "inside", "scores": {arm: scores}}

    cells = [
        *(cell(0, "fedavg", a=0.5, b=0.7), cell(1, "fedavg", a=0.7, b=0.7)),
        *(cell(0, "refined", a=0.7, b=0.6), cell(1, "refined", a=0.9, b=0.8)),
        cell(0, "local", a=0.1),
    ]
    table = summarize(cells)["inside"]
    refined = table["refined"]
    assert (refined["mean"], refined["worst"], refined["worst_site"]) == (
        pytest.approx(0.75),
        pytest.approx(0.7),
        "b",
    )
    assert (refined["gain"], refined["gap"], refined["gap_site"]) == (
        pytest.approx(0.1),
        pytest.approx(0.0),
        "b",
    )
    assert refined["gap_error"] == pytest.approx(0.1)
    assert "| refined | 2 | 0.750 ± 0.141 |" in show({"inside": table})
