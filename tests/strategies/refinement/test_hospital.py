"""A hospital that only describes itself: no label is read, and its model can be used."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from polyclinic.config.release import Release
from polyclinic.describing.statistics import statistics
from polyclinic.errors import (
    ConfigError,
    ConfigMismatch,
    DatasetInvalid,
    LimitExceeded,
    ModelInvalid,
    TooFewSubjects,
    UnknownName,
)
from polyclinic.learning.model_file import load_model
from polyclinic.learning.state_dict import load_state
from polyclinic.system.faults import shareable as sentence
from polyclinic_client.policy.policy import keep_policy
from polyclinic_client.site.site import Site
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort, write_unlabelled
from tests.client.site import test_site

order = partial(test_site.order, method="refinement")
ANYBODY = Release(min_subjects=1)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    coarse = [replace(HOSPITALS[0], voxel_mm=(6.0, 6.0, 6.0))]
    return write_cohort(
        tmp_path_factory.mktemp("cohort"), sites=1, subjects=(1, 1, 1), seed=3, scanners=coarse
    )[0]


@pytest.fixture
def images(labelled: Path, tmp_path: Path) -> Path:
    """The same training and validation images as a list without labels."""
    return write_unlabelled(labelled, tmp_path / "images")


@pytest.fixture
def site(images: Path, tmp_path: Path) -> Site:
    keep_policy(tmp_path / "state", min_subjects=1)
    keep_policy(tmp_path / "other", min_subjects=1)
    return Site("new", images, tmp_path / "state", mode="describe")


def test_it_needs_images_alone(site: Site, images: Path) -> None:
    assert "label" not in (images / "dataset.json").read_text().replace('"labels"', "")
    assert {case.label for case in site.dataset.cases} == {None}
    with pytest.raises(DatasetInvalid, match="'training' is empty"):
        Site("new", images, site.state)  # to train, it would need more
    asked, weights = order()
    means, subjects = site.describe(asked, sorted(statistics()), ANYBODY, weights)
    assert subjects == 2 and set(means) == set(statistics())
    assert all(
        mean.dtype == torch.float32 and mean.ndim == 1 and 0 < float(mean.norm()) <= 1 + 1e-6
        for mean in means.values()
    )


def test_the_greeting_says_that_it_describes(site: Site) -> None:
    hello = site.greet(order()[0])
    assert (hello.mode, hello.refusal, hello.counts) == (
        "describe",
        "",
        {"training": 0, "validation": 0, "test": 2},
    )


def test_a_newcomer_that_is_refused_says_why_to_the_client_that_waits(site: Site) -> None:
    asked, _ = order()
    hello = site.greet(replace(asked, digests={**asked.digests, "layout": "another"}))
    assert not hello.refusal  # describing needs no network yet
    hello = site.greet(replace(asked, digests={**asked.digests, "data": "another"}))
    status = json.loads((site.state / "status.json").read_text())
    assert status["doing"] == "refused" and "brain_tissue_slices" in status["reason"]
    assert hello.refusal.endswith(status["reason"])


def test_labels_change_nothing(
    site: Site, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYCLINIC_IMAGE_FOLDERS", str(labelled))
    asked, _ = order()
    dataset = json.loads((labelled / "dataset.json").read_text())
    folder = tmp_path / "labelled"
    folder.mkdir()
    for split in ("training", "validation"):
        dataset[split] = [
            {key: str(labelled / path) for key, path in case.items()} for case in dataset[split]
        ]
    (folder / "dataset.json").write_text(json.dumps({**dataset, "test": []}))
    means, _ = site.describe(asked, ["average_image"], ANYBODY, None)
    same, _ = Site("new", folder, tmp_path / "other", mode="describe").describe(
        asked, ["average_image"], ANYBODY, None
    )
    assert torch.equal(means["average_image"], same["average_image"])


def test_features_are_those_of_the_base_that_came_along(site: Site) -> None:
    asked, weights = order()
    names = ["average_image", "channel_gaussians"]
    initial, _ = site.describe(asked, names, ANYBODY, None)
    same, _ = site.describe(asked, names, ANYBODY, weights)
    other, _ = site.describe(asked, names, ANYBODY, 2 * weights)
    assert all(torch.equal(initial[name], same[name]) for name in names)
    assert torch.equal(initial["average_image"], other["average_image"])
    assert not torch.allclose(initial["channel_gaussians"], other["channel_gaussians"])
    with pytest.raises(ModelInvalid, match="this network has"):
        site.describe(asked, names, ANYBODY, weights[1:])


def test_too_few_subjects_is_a_sentence_that_may_travel(site: Site) -> None:
    with pytest.raises(TooFewSubjects) as caught:
        site.describe(order()[0], ["average_image"], Release(min_subjects=3), None)
    assert sentence(caught.value).startswith(
        "TooFewSubjects: The hospital has 2 subjects to describe itself with, at least 3 are needed"
    )
    assert str(site.dataset.folder) not in sentence(caught.value)


def test_the_hospitals_own_demands_count_whatever_the_coordinator_asks(site: Site) -> None:
    asked, _ = order()
    with pytest.raises(TooFewSubjects):  # of a hospital that never said anything, 3
        Site("new", site.dataset.folder, site.state / "silent", mode="describe").describe(
            asked, ["average_image"], ANYBODY, None
        )
    quiet, _ = site.describe(asked, ["average_image"], ANYBODY, None)
    keep_policy(site.state, noise_multiplier=0.5)
    noisy, _ = site.describe(asked, ["average_image"], ANYBODY, None)
    assert not torch.equal(quiet["average_image"], noisy["average_image"])
    keep_policy(site.state, min_subjects=3)
    with pytest.raises(TooFewSubjects):
        site.describe(asked, ["average_image"], ANYBODY, None)
    (site.state / "release.json").write_text("{")
    with pytest.raises(ConfigError, match=r"release\.json cannot be used"):
        site.describe(asked, ["average_image"], ANYBODY, None)


def test_a_question_that_comes_again_gets_the_same_noise_and_others_are_counted(
    site: Site,
) -> None:
    asked, weights = order()
    keep_policy(site.state, min_subjects=1, noise_multiplier=0.5)
    keep_policy(site.state, releases=2)
    names = ["average_image"]
    once, subjects = site.describe(asked, names, ANYBODY, None)
    for _ in range(3):
        again = site.describe(replace(asked, run="another"), names, ANYBODY, None)
        assert torch.equal(once["average_image"], again[0]["average_image"])
        assert again[1] == subjects
    other, _ = site.describe(asked, names, ANYBODY, weights)
    assert not torch.equal(once["average_image"], other["average_image"])
    with pytest.raises(LimitExceeded, match="--max-releases"):
        site.describe(asked, names, ANYBODY, 2 * weights)
    site.describe(asked, names, ANYBODY, weights)
    keep_policy(site.state, releases=3)
    site.describe(asked, names, ANYBODY, 2 * weights)


def test_an_answer_that_was_damaged_is_made_again(site: Site) -> None:
    asked, _ = order()
    once, _ = site.describe(asked, ["average_image"], ANYBODY, None)
    (kept,) = (site.state / "releases").iterdir()
    kept.write_bytes(b"{")
    again, _ = site.describe(asked, ["average_image"], ANYBODY, None)
    assert torch.equal(once["average_image"], again["average_image"])


def test_an_unknown_statistic_is_refused_before_an_image_is_read(site: Site) -> None:
    site.dataset = replace(
        site.dataset, test=(replace(site.dataset.test[0], image=(Path("nowhere.nii.gz"),)),)
    )
    with pytest.raises(UnknownName, match="magic"):
        site.describe(order()[0], ["average_image", "magic"], ANYBODY, None)


def test_another_configuration_is_refused(site: Site) -> None:
    asked, weights = order()
    other = replace(asked, digests={**asked.digests, "data": "0" * 64})
    with pytest.raises(ConfigMismatch):
        site.describe(other, ["average_image"], ANYBODY, None)
    with pytest.raises(ConfigMismatch):
        site.receive(other, weights, 1)


def test_what_is_being_done_is_said(site: Site) -> None:
    site.describe(order()[0], ["average_image"], ANYBODY, None)
    assert json.loads((site.state / "status.json").read_text())["doing"] == "waiting"


def test_the_refined_model_can_be_loaded_and_replaces_the_one_before(site: Site) -> None:
    asked, weights = order()
    for number, factor in ((1, 1.0), (2, 0.5)):
        path = site.receive(asked, factor * weights, number)
        network, job = load_model(path)
        assert path == site.state / "refined.safetensors" and job.data.labels[0] == "background"
        sent = torch.cat(
            [
                tensor.reshape(-1)
                for tensor in network.state_dict().values()
                if tensor.is_floating_point()
            ]
        )
        assert torch.equal(sent, factor * weights)
        assert json.loads(load_state(path)[1]["polyclinic"])["round"] == number
    assert json.loads((site.state / "status.json").read_text())["doing"] == "refined"


def test_a_refined_model_of_another_network_or_with_nan_is_refused(site: Site) -> None:
    asked, weights = order()
    for wrong in (weights[1:], torch.full_like(weights, torch.nan)):
        with pytest.raises(ModelInvalid):
            site.receive(asked, wrong, 1)
    assert not (site.state / "refined.safetensors").exists()
