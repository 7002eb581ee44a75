"""A hospital fine-tunes outside of any message: crashes, hand-overs, wrong bases."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from polyclinic.errors import ConfigError, LimitExceeded, ModelInvalid, TooFewSubjects
from polyclinic.learning import training
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.state_dict import shared_names, state_digest, unpack
from polyclinic.store.contribution import TensorFile, read_contribution
from polyclinic_client.policy.policy import keep_policy
from polyclinic_client.site.fine_tuning import work
from polyclinic_client.site.outbox import Outbox
from polyclinic_client.site.site import Site
from polyclinic_strategies.merging.messages import Assignment, Verdict
from tests.client.site.test_site import data, order  # noqa: F401

LEDGER = "e" * 64


@pytest.fixture
def hospital(data: Path, tmp_path: Path) -> Site:  # noqa: F811
    keep_policy(tmp_path / "state", min_subjects=1)
    return Site("mprage-3t", data, tmp_path / "state")


def assigned(hospital: Site, *statistics: str, min_subjects: int = 1) -> tuple[Assignment, Tensor]:
    asked, weights = order(method="merging")
    network = hospital.build_network(asked)
    base = unpack(weights, network.state_dict(), shared_names(network, "none"))
    return Assignment(asked, state_digest(base), "t", LEDGER, statistics, min_subjects), weights


def prepare_base(hospital: Site, *statistics: str, min_subjects: int = 1) -> Assignment:
    assignment, weights = assigned(hospital, *statistics, min_subjects=min_subjects)
    assert hospital.hand_over(assignment, []).needs_base
    hospital.keep_base(assignment.order, assignment.base, weights)
    assert not hospital.hand_over(assignment, []).needs_base
    return assignment


def do(hospital: Site) -> Path:
    work(hospital.name, hospital.dataset.folder, hospital.state)
    (path,) = hospital.outbox.folder.glob("*.safetensors")
    return path


def vectors(path: Path) -> dict[str, Tensor]:
    with TensorFile(path) as file:
        return {name: file.task_vector(name).clone() for name in file.names}


def test_a_contribution_says_where_it_comes_from_and_waits_until_it_is_acknowledged(
    hospital: Site,
) -> None:
    assignment = prepare_base(hospital, "fisher", "gram")
    path = do(hospital)
    made = read_contribution(path)
    assert (made.site, made.base, made.num_examples) == ("mprage-3t", assignment.base, 1)
    assert {"loss", "score"} <= set(made.metrics)
    assert any(bool(vector.any()) for vector in vectors(path).values())
    with TensorFile(path) as file:
        assert {name.partition("/")[0] for name in file.statistics} == {"fisher", "gram"}
    for _ in range(2):
        handed = hospital.hand_over(assignment, [])
        assert handed.digest == path.stem and handed.content == path.read_bytes()
    assert hospital.hand_over(assignment, [Verdict(path.stem, True)]).digest == ""
    work(hospital.name, hospital.dataset.folder, hospital.state)
    assert hospital.hand_over(assignment, []).digest == ""  # nothing more to do


def test_a_hospital_without_foreground_contributes_without_a_score(
    hospital: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_base(hospital)
    nothing = Evaluation(None, {"CSF": math.nan}, math.nan, 1)
    monkeypatch.setattr(training, "evaluate", lambda *a, **o: nothing)
    made = read_contribution(do(hospital))
    assert set(made.metrics) == {"loss"} and math.isfinite(made.metrics["loss"])


@pytest.mark.parametrize(("ours", "theirs", "noise"), [(20, 1, None), (1, 2, None), (1, 1, 5.0)])
@pytest.mark.parametrize("statistic", ["gram", "fisher", "correlation"])
def test_neither_sides_demand_lets_statistics_of_one_subject_leave(
    hospital: Site, statistic: str, ours: int, theirs: int, noise: float | None
) -> None:
    keep_policy(hospital.state, min_subjects=ours, noise_multiplier=noise)
    prepare_base(hospital, statistic, min_subjects=theirs)
    if noise and statistic == "correlation":  # it has noise
        do(hospital)
        return
    with pytest.raises(ConfigError if noise else TooFewSubjects):
        work(hospital.name, hospital.dataset.folder, hospital.state)
    assert not list(hospital.outbox.folder.glob("*"))


def test_contributions_with_statistics_are_counted_with_all_other_answers(hospital: Site) -> None:
    keep_policy(hospital.state, releases=0)
    prepare_base(hospital, "correlation")
    with pytest.raises(LimitExceeded, match="--max-releases"):
        work(hospital.name, hospital.dataset.folder, hospital.state)
    hospital.hand_over(assigned(hospital)[0], [])
    assert do(hospital).exists()  # without statistics nothing is counted


def test_a_crash_costs_a_pass_and_changes_no_bit(
    hospital: Site,
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare_base(hospital)
    whole = vectors(do(hospital))
    other = Site("mprage-3t", data, tmp_path / "other")
    prepare_base(other)
    fit, passes = training.fit, []

    def failing(*arguments: object, **options: object) -> object:
        if len(passes) == 2:
            raise KeyboardInterrupt  # the process is gone
        passes.append(1)
        return fit(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "fit", failing)
    with pytest.raises(KeyboardInterrupt):
        do(other)
    assert not list(other.outbox.folder.glob("*"))
    monkeypatch.setattr(training, "fit", lambda *a, **o: passes.append(1) or fit(*a, **o))
    broken = vectors(do(other))
    assert len(passes) == 3  # of three passes none was made twice
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_base_with_other_weights_is_not_kept(hospital: Site) -> None:
    assignment, weights = assigned(hospital)
    with pytest.raises(ModelInvalid, match="arrived with other weights"):
        hospital.keep_base(assignment.order, assignment.base, weights + 1.0)
    assert hospital.hand_over(assignment, []).needs_base


def test_a_failure_reaches_the_coordinator_without_the_hospitals_file_names(
    hospital: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignment = prepare_base(hospital)

    def diverge(*arguments: object, **options: object) -> None:
        raise ConfigError("Training diverged: lower training.learning_rate.")

    monkeypatch.setattr(training, "fit", diverge)
    with pytest.raises(ConfigError):
        work(hospital.name, hospital.dataset.folder, hospital.state)
    assert "lower training.learning_rate" in hospital.hand_over(assignment, []).doing
    work(hospital.name, hospital.dataset.folder, hospital.state)  # not tried in circles


@pytest.mark.parametrize("restoration", ["statistics", "steps"])
def test_restoration_before_scoring(hospital: Site, restoration: str) -> None:
    asked, weights = order(method="merging")
    plain = hospital.validate(asked, weights)
    restored = hospital.validate(
        replace(asked, restoration=restoration, restoration_steps=3), weights
    )
    changes = restored.score != plain.score
    assert changes == (
        restoration == "steps"
    )  # instance normalization keeps no statistics that could be restored


def test_an_unknown_restoration_is_refused(hospital: Site) -> None:
    asked, weights = order(method="merging")
    with pytest.raises(ConfigError, match="none, statistics, steps"):
        hospital.validate(replace(asked, restoration="magic"), weights)


def test_two_outboxes_of_one_state_see_the_same(hospital: Site) -> None:
    prepare_base(hospital)
    assert Outbox(hospital.state, hospital.dataset.folder).todo() == hospital.outbox.todo()
