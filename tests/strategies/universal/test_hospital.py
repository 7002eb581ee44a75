"""A hospital's part in the universal model: what is learned, what is kept, what leaves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.jobs import job_digests, job_settings
from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError, TooFewSubjects
from polyclinic.federation.records import Order
from polyclinic.learning import preparation, training
from polyclinic.learning.model_file import load_model
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.state_dict import (
    layout_digest,
    load_state,
    pack,
    shared_names,
    state_digest,
)
from polyclinic.store.contribution import TensorFile, read_contribution
from polyclinic_client.policy.policy import keep_policy
from polyclinic_client.site.fine_tuning import work
from polyclinic_client.site.site import Site
from polyclinic_strategies.merging.messages import Assignment
from polyclinic_strategies.universal import exchange
from polyclinic_strategies.universal.exchange import EMBEDDING, TASK
from tests.strategies.universal.test_coordinator import SMALL
from tests.task_cohort import SECRETS, write_tasks

HEAD = "universal/head-*.safetensors"
LEDGER = "e" * 64


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.name: path for path in write_tasks(tmp_path_factory.mktemp("tasks"))}


def order(*overrides: str, seed: int = 0) -> tuple[Order, Tensor]:
    config = load_config([*SMALL, *overrides])
    names, settings = job_settings(config)
    torch.manual_seed(seed)
    network = instantiate(config.model)
    digests = job_digests(JobConfig(config.model, config.data, config.training))
    digests["layout"] = layout_digest(network.state_dict(), shared_names(network, "none"))
    made = Order(
        "run", "universal", 0, 1, "none", "0.1.0", names, settings, digests, method="universal"
    )
    return made, pack(network.state_dict(), shared_names(network, "none"))


def assign(hospital: Site, *overrides: str, seed: int = 0, **details: Any) -> Assignment:
    """Ask for a contribution, and hand the hospital the base."""
    asked, weights = order(*overrides, seed=seed)
    network = hospital.build_network(asked)
    names = shared_names(network, "none")
    base = dict(
        zip(
            names,
            torch.split(weights, [network.state_dict()[name].numel() for name in names]),
            strict=True,
        )
    )
    base = {name: tensor.reshape(network.state_dict()[name].shape) for name, tensor in base.items()}
    assignment = Assignment(asked, state_digest(base), TASK, LEDGER, (EMBEDDING,), **details)
    hospital.hand_over(assignment, [])
    hospital.keep_base(asked, assignment.base, weights)
    return assignment


def do(hospital: Site) -> Path:
    before = set(hospital.outbox.folder.glob("*.safetensors"))
    work(hospital.name, hospital.dataset.folder, hospital.state)
    (path,) = set(hospital.outbox.folder.glob("*.safetensors")) - before
    return path


def tensors(path: Path) -> dict[str, Tensor]:
    with TensorFile(path) as file:
        vectors = {name: file.task_vector(name).clone() for name in file.names}
        return vectors | {name: file.statistic(name).clone() for name in file.statistics}


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_hospital_declares_its_task_in_numbers_and_is_not_refused(
    sites: dict[str, Path], tmp_path: Path, name: str
) -> None:
    hello = Site(name, sites[name], tmp_path).greet(order()[0])
    assert hello.refusal == ""
    assert (
        hello.task
        == {
            "discs": "classification, 2 classes, 1 channel, 2-D",
            "stripes": "classification, 3 classes, 3 channels, 2-D",
            "blobs": "segmentation, 2 classes, 1 channel, 2-D",
        }[name]
    )


def head_of(state: Path) -> Path:
    (found,) = state.glob(HEAD)
    return found


def test_the_encoder_leaves_and_the_head_stays(sites: dict[str, Path], tmp_path: Path) -> None:
    hospital = Site("discs", sites["discs"], tmp_path)
    assignment = assign(hospital)
    path = do(hospital)
    made = read_contribution(path)
    assert (made.task, made.base, made.num_examples) == (TASK, assignment.base, 12)
    assert {**made.metrics, "loss": 0, "score": 0} == {
        "loss": 0, "score": 0, "classes": 2, "channels": 1, "dimensions": 2, "segmentation": 0,
    }  # fmt: skip
    names = set(tensors(path))
    assert {name for name in names if not name.startswith("encoder.")} == {
        "embedding.mean",
        "embedding.covariance",
    }
    assert any(
        bool(tensor.any()) for name, tensor in tensors(path).items() if name.startswith("encoder.")
    )
    kept, metadata = load_state(head_of(tmp_path))
    assert kept and all(not name.startswith("encoder.") for name in kept)
    assert json.loads(metadata["polyclinic"])["labels"] == SECRETS["discs"]


def test_the_next_stage_starts_from_the_kept_head_of_the_same_federation(
    sites: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    hospital = Site("discs", sites["discs"], tmp_path)
    assign(hospital)
    do(hospital)
    kept = load_state(head_of(tmp_path))[0]
    fit, began = training.fit, []

    def watched(network: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        began.append({name: network.state_dict()[name].clone() for name in kept})
        return fit(network, *arguments, **options)

    monkeypatch.setattr(training, "fit", watched)
    assign(hospital, seed=1)
    do(hospital)
    assert all(torch.equal(began[0][name], kept[name]) for name in kept)
    newer = load_state(head_of(tmp_path))[0]
    other = assign(hospital, seed=2)
    hospital.hand_over(replace(other, ledger="f" * 64), [])  # another federation's
    do(hospital)
    assert not all(torch.equal(began[1][name], newer[name]) for name in kept)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_crash_costs_a_pass_and_changes_no_bit(
    sites: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:  # fmt: skip
    whole, broken = (
        Site("stripes", sites["stripes"], tmp_path / name) for name in ("whole", "broken")
    )
    for hospital in (whole, broken):
        assign(hospital, "training.epochs=3", f"training.universal.rank={rank}")
    first = tensors(do(whole))
    fit, passes = training.fit, []

    def failing(*arguments: Any, **options: Any) -> Any:
        if len(passes) == 2:
            raise KeyboardInterrupt  # the process is gone
        passes.append(1)
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", failing)
    with pytest.raises(KeyboardInterrupt):
        do(broken)
    assert not list(broken.state.glob(HEAD))
    monkeypatch.setattr(training, "fit", lambda *a, **o: passes.append(1) or fit(*a, **o))
    second = tensors(do(broken))
    assert len(passes) == 3
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_masked_image_modelling_reads_no_label(
    sites: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = Site("blobs", sites["blobs"], tmp_path)
    assign(hospital, "training.universal.learn=mim")

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a label was read")

    monkeypatch.setattr(preparation, "read_label", refuse)
    monkeypatch.setattr(preparation, "prepare_case", refuse)
    path = do(hospital)
    metrics = read_contribution(path).metrics
    assert metrics["loss"] > 0 and "score" not in metrics and metrics["segmentation"] == 1
    assert any(
        bool(tensor.any()) for name, tensor in tensors(path).items() if name.startswith("encoder.")
    )
    assert not list(tmp_path.glob(HEAD))


@pytest.mark.parametrize("asked", [{"min_subjects": 13}, {}])
def test_over_too_few_images_nothing_is_said(
    sites: dict[str, Path], tmp_path: Path, asked: dict[str, Any]
) -> None:
    hospital = Site("discs", sites["discs"], tmp_path)
    if not asked:
        keep_policy(tmp_path, min_subjects=13)  # the hospital's own demand
    assignment = assign(hospital, **asked)
    with pytest.raises(TooFewSubjects):
        work("discs", sites["discs"], tmp_path)
    assert (
        not list(hospital.outbox.folder.glob("*"))
        and "TooFewSubjects" in hospital.hand_over(assignment, []).doing
    )


def test_a_hospital_that_demands_noise_sends_no_statistics_without_it(
    sites: dict[str, Path], tmp_path: Path
) -> None:
    hospital = Site("discs", sites["discs"], tmp_path)
    keep_policy(tmp_path, noise_multiplier=1.0)
    assign(hospital)
    with pytest.raises(ConfigError, match="Noise on statistics is demanded"):
        work("discs", sites["discs"], tmp_path)
    assert not list(hospital.outbox.folder.glob("*"))


@pytest.mark.parametrize("learn", ["task", "mim"])
def test_with_a_rank_factors_travel_instead_of_the_encoder(
    sites: dict[str, Path], tmp_path: Path, learn: str
) -> None:
    hospital = Site("discs", sites["discs"], tmp_path)
    assignment = assign(hospital, "training.universal.rank=2", f"training.universal.learn={learn}")
    base = load_state(hospital.outbox.base_path(assignment.base))[0]
    with TensorFile(do(hospital)) as file:
        found = {name: file.shape(name) for name in file.names}
        assert found == exchange.layout_of(base, 2) and set(found) != set(base)
        assert any(bool(file.task_vector(name).any()) for name in found if name.endswith(".up"))


def test_figures_leave_without_the_names_of_classes_and_the_model_stays(
    sites: dict[str, Path], tmp_path: Path
) -> None:
    hospital = Site("discs", sites["discs"], tmp_path)
    asked, weights = order()
    assert hospital.validate(asked, weights).scores == {}
    tested = hospital.test(asked, weights)
    assert tested.scores == {} and 0 <= tested.score <= 1
    network, job = load_model(tmp_path / "runs" / "run" / "universal" / "model.safetensors")
    assert (job.data.task, job.data.labels) == ("classification", tuple(SECRETS["discs"]))
    evaluation, _ = evaluate_natively(network, hospital.dataset, job.data)
    assert evaluation.score == tested.score and set(evaluation.scores) == set(SECRETS["discs"])


def test_volumes_of_two_channels_take_part_with_an_encoder_for_pictures(tmp_path: Path) -> None:
    rng, listed = np.random.default_rng(0), {}
    folder = tmp_path / "volumes"
    folder.mkdir()
    for number, split in enumerate(("training", "training", "training", "validation", "test")):
        inside = np.zeros((20, 20, 4), np.uint8)
        inside[5:12, 6:14, 1:3] = 1
        names = [f"{number}-{channel}.nii.gz" for channel in (0, 1)]
        for name in names:
            nib.save(
                nib.Nifti1Image(
                    (rng.normal(50, 9, inside.shape) + 80 * inside).astype(np.float32), np.eye(4)
                ),
                folder / name,
            )
        nib.save(nib.Nifti1Image(inside, np.eye(4)), folder / f"{number}.nii.gz")
        listed.setdefault(split, []).append({"image": names, "label": f"{number}.nii.gz"})
    labels, modality = {"0": "background", "1": "lynx"}, {"0": "T1", "1": "T2"}
    (folder / "dataset.json").write_text(
        json.dumps({"labels": labels, "modality": modality, **listed})
    )
    hospital = Site("volumes", folder, tmp_path / "state")
    assert hospital.greet(order()[0]).task == "segmentation, 2 classes, 2 channels, 3-D"
    for number, learn in enumerate(("task", "mim")):
        assign(hospital, f"training.universal.learn={learn}", seed=number, min_subjects=3)
        path = do(hospital)
        assert read_contribution(path).metrics["dimensions"] == 3
        assert all(name.startswith(("encoder.", "embedding.")) for name in tensors(path))
    asked, weights = order()
    assert 0 <= hospital.test(asked, weights).score <= 1
    network, _ = load_model(tmp_path / "state" / "runs" / "run" / "universal" / "model.safetensors")
    assert any(name.startswith("stem.") for name in network.state_dict())
