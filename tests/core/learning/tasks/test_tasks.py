"""Each kind of task from a folder to figures: read, prepared, trained, scored, predicted."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

import polyclinic
from polyclinic.config.compose import load_config
from polyclinic.config.jobs import job_settings, load_job
from polyclinic.config.schemas import Config, DataConfig
from polyclinic.config.tasks import KINDS as KNOWN
from polyclinic.config.tasks import TaskName
from polyclinic.errors import ConfigError, DatasetInvalid
from polyclinic.federation.jobs import build_network, check_network
from polyclinic.imaging.dataset_checks import check_agreement
from polyclinic.imaging.datasets import SiteDataset, evaluation_cases, read_dataset
from polyclinic.learning import training
from polyclinic.learning.cases.disk_cache import DiskCache
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.measures.estimates import overall
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.prediction import evaluate_natively, predict_natively
from polyclinic.learning.preparation import PreparedSite, prepare
from polyclinic.learning.state_dict import save_state
from polyclinic.learning.tasks.registry import TASKS, task_of
from polyclinic.learning.tasks.voxels import draw_regions
from polyclinic_client.site.predict import predict_files
from tests.label_cohorts import (
    FINDINGS,
    REGIONS,
    SIDE,
    write_findings,
    write_numbers,
    write_regions,
)

SMALL = ("data.spacing_mm=[3.0,3.0,3.0]", f"data.patch=[{SIDE},{SIDE},{SIDE}]", "rounds=1")
NET = ("model.channels=[4,8]", "model.strides=[2]", "model.num_res_units=0")
KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "multilabel": (
        write_findings,
        (
            "data=multilabel",
            "model=densenet",
            "model.block_config=[2,2]",
            "training=multilabel",
            f"data.labels=[{','.join(FINDINGS)}]",
            "training.learning_rate=0.01",
            "training.batch_size=2",
        ),
    ),
    "regression": (
        write_numbers,
        (
            "data=regression",
            "model=densenet",
            "model.block_config=[2,2]",
            "training=regression",
            "training.learning_rate=0.01",
            "training.batch_size=4",
        ),
    ),
    "regions": (
        write_regions,
        (
            "data=regions",
            "model=unet",
            "training=regions",
            "data.labels=[whole tumour,core,enhancing]",
            "data.region_values=[2,1,4]",
            "training.learning_rate=0.02",
            *NET,
        ),
    ),
}
FEW = {"training": 2, "validation": 1}
EPOCHS = {"multilabel": 8, "regression": 8, "regions": 4}
LEARNED = {"multilabel": 0.8, "regression": 0.9, "regions": 0.75}


@dataclass(frozen=True)
class Trained:
    config: Config
    dataset: SiteDataset
    prepared: PreparedSite
    network: torch.nn.Module
    before: Evaluation
    after: Evaluation


def configure(kind: str, *more: str) -> Config:
    return load_config([*KINDS[kind][1], *SMALL, f"training.epochs={EPOCHS[kind]}", *more])


@pytest.fixture(scope="module", params=list(KINDS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    kind = request.param
    config = configure(kind)
    dataset = read_dataset(KINDS[kind][0](tmp_path_factory.mktemp(kind) / "site"))
    prepared = prepare(dataset, config.data)
    network = build_network(config)
    check_network(network, config)
    before = training.evaluate(network, prepared.validation, config.data, config.training)
    training.fit(
        network, training_loader(prepared, config.training, 0), config.training, config.data
    )
    after = training.evaluate(network, prepared.validation, config.data, config.training)
    return Trained(config, dataset, prepared, network, before, after)


def test_a_network_learns_its_task(trained: Trained) -> None:
    kind = trained.config.data.task
    assert trained.dataset.task == kind
    assert trained.before.loss is not None and trained.after.loss is not None
    assert trained.after.loss < trained.before.loss
    assert trained.after.score > max(LEARNED[kind], trained.before.score)
    assert tuple(trained.after.scores) == trained.config.data.labels
    assert trained.after.num_examples == 6


def test_figures_on_the_images_own_grids_have_support(trained: Trained) -> None:
    """Each measure is of as many cases as there are; the score is among them."""
    data = trained.config.data
    found, scored = evaluate_natively(trained.network, trained.dataset, data)
    assert len(scored) == 6 and all(0 <= each.score <= 1 for each in scored)
    whole = overall(found.measures)
    assert whole is not None and whole.value == pytest.approx(found.score)
    assert set(found.measures) == {"", *data.labels}
    assert all(each.n <= 6 for table in found.measures.values() for each in table.values())


def test_the_disk_gives_the_same_samples(trained: Trained, tmp_path: Path) -> None:
    config = trained.config
    disk = DiskCache(tmp_path, 2**30)
    none = config.data.__class__(**{**vars(config.data), "cache_gb": 0.0})
    mapped = prepare(trained.dataset, none, disk=disk)
    for one, other in zip(mapped.training, trained.prepared.training, strict=True):
        assert torch.equal(one.image, other.image)
        if isinstance(one.label, Tensor):
            assert isinstance(other.label, Tensor) and torch.equal(one.label, other.label)
        else:
            assert one.label == other.label


def test_predict_writes_what_is_found(trained: Trained, tmp_path: Path) -> None:
    """The command's file and the API's value are those of the network."""
    config, network = trained.config, trained.network
    model = tmp_path / "model.safetensors"
    save_model(model, config, network)
    case = trained.dataset.test[0]
    predict_files(model, case.image, tmp_path / "out", Console(quiet=True))
    value = polyclinic.predict(model, case.image[0])
    if config.data.kind.per_voxel:
        written = np.asarray(nibabel.load(tmp_path / "out" / case.image[0].name).dataobj)
        np.testing.assert_array_equal(written, value)
        assert set(np.unique(written)) <= {0, 1, 2, 4} and written.any()
        return
    with (tmp_path / "out" / "predictions.csv").open() as file:
        heading, row = list(csv.reader(file))
    figures = [float(each) for each in row[-len(config.data.labels) :]]
    assert figures == pytest.approx(value.tolist(), abs=1e-4)
    if config.data.task == "multilabel":
        assert heading == ["image", "findings", *FINDINGS]
        wanted = [name for name, each in zip(FINDINGS, value, strict=True) if each >= 0.5]
        assert row[1] == (", ".join(wanted) or "none")
    else:
        assert heading == ["image", "age"]
        assert case.label is not None and abs(figures[0] - case.label[0]) < 40  # type: ignore[index]


def save_model(path: Path, config: Config, network: torch.nn.Module) -> None:
    names, settings = job_settings(config)
    described = json.dumps({"names": names, "settings": settings})
    save_state(network.state_dict(), path, {"polyclinic": described})


class Marks(torch.nn.Module):
    """Regions from the brightness: above 0.6, 1.5 and 2.5."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([10 * (image - level) for level in (0.6, 1.5, 2.5)], 1)


def test_regions_are_of_the_numbers_that_dataset_json_joins(tmp_path: Path) -> None:
    """Three nested balls: 1 + 2 + 4, 1 + 4, 4; drawn again they give the label map."""
    config = configure("regions", "data.intensity=[]", "data.augment=[]")
    dataset = read_dataset(write_regions(tmp_path / "site", counts=FEW))
    case = dataset.training[0]
    truth = task_of(config.data).read_truth(case, config.data)
    assert isinstance(case.label, Path)
    label = np.asarray(nibabel.load(case.label).dataobj)
    for region, numbers in zip(truth, REGIONS.values(), strict=True):
        np.testing.assert_array_equal(region.numpy(), np.isin(label, numbers))
    np.testing.assert_array_equal(draw_regions(truth, (2, 1, 4)).numpy(), label)
    answer, _ = predict_natively(Marks(), case.image, config.data)
    found, (scored, *_) = evaluate_natively(Marks(), dataset, config.data, "training")
    dice = 2 * (answer & truth).flatten(1).sum(1) / (answer.sum((1, 2, 3)) + truth.sum((1, 2, 3)))
    assert list(scored.scores.values()) == pytest.approx(dice.tolist())
    assert found.score == pytest.approx(float(dice.mean())) and found.score > 0.9


def test_patches_are_centred_on_regions(tmp_path: Path) -> None:
    config = configure("regions", "data.foreground_share=1.0")
    dataset = read_dataset(write_regions(tmp_path / "site", counts=FEW))
    sample = prepare(dataset, config.data).training[0]
    assert isinstance(sample.label, Tensor) and sample.label.shape == (3, SIDE, SIDE, SIDE)
    for places, region in zip(sample.foreground, sample.label, strict=True):
        assert bool(region[tuple(places.long().T)].all()) and len(places) == int(region.sum())


def test_a_number_beyond_the_range_is_refused_with_its_case(tmp_path: Path) -> None:
    dataset = read_dataset(write_numbers(tmp_path / "site"))
    data = configure("regression", "data.ranges=[0,25]").data
    with pytest.raises(DatasetInvalid, match="beyond the federation's range of 0 to 25"):
        check_agreement(dataset, data)


@pytest.mark.parametrize(
    ("kind", "changed", "problem"),
    [
        ("regression", "data.ranges=[0,1,2]", "lowest and highest"),
        ("regression", "data.ranges=[5,5]", "lowest and highest"),
        ("regression", "data.task=multilabel", "only of data.task=regression"),
        ("multilabel", "training=classification", "training=multilabel"),
        ("regions", "training=default", "training=regions or training=nnunet"),
        ("regions", "data.region_values=[1,2]", "one number for each"),
        ("regions", "data.region_values=[1,2,2]", "all different"),
    ],
)
def test_settings_that_do_not_fit_the_task(kind: str, changed: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        configure(kind, changed)


def test_a_network_with_another_output_is_refused() -> None:
    config = load_config(["data=regression", "training=regression", "model=unet", *SMALL, *NET])
    with pytest.raises(ConfigError, match=r"regression with 1 labels needs \(1, 1\)"):
        check_network(build_network(config), config)


def test_numbers_are_on_the_scale_of_their_range() -> None:
    data = configure("regression", "data.labels=[age,dose]", "data.ranges=[0,100,-2,2]").data
    task = task_of(data)
    target = task.target((75.0, math.nan), data)
    assert target[0] == 0.5 and bool(target[1].isnan())
    back = task.decide(torch.tensor([0.5, -1.0]), data)
    assert back.tolist() == [75.0, -2.0]


def test_every_task_of_the_settings_has_its_object() -> None:
    assert set(TASKS) == set(get_args(TaskName)) == set(KNOWN) - {"own"}


def test_rounds_do_not_mirror_and_the_test_does(trained: Trained) -> None:
    """Mirroring costs 8 times as much: only what is tested at the end pays it."""
    calls = 0

    class Counting(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return trained.network(image)  # type: ignore[no-any-return]

    plain = vars(trained.config.data)
    data = DataConfig(**{**plain, "mirrored_inference": True})
    training.evaluate(Counting(), trained.prepared.validation, data)
    once, calls = calls, 0
    evaluate_natively(Counting(), trained.dataset, data)
    assert once == 6 and calls == 8 * len(evaluation_cases(trained.dataset))


def test_a_job_of_each_task_travels() -> None:
    """What differs from the names in conf/ travels, and a hospital builds the same job of it."""
    for kind in KINDS:
        config = configure(kind)
        names, settings = job_settings(config)
        assert load_job(names, settings).data == config.data
