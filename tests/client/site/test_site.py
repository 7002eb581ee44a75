"""What a hospital does with an order, without Flower and without processes."""

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.jobs import job_digests, job_settings
from polyclinic.config.schemas import JobConfig
from polyclinic.errors import (
    ConfigError,
    ConfigMismatch,
    DatasetInvalid,
    ImageInvalid,
    ModelInvalid,
)
from polyclinic.federation.records import Order
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning.state_dict import layout_digest, load_state, pack, shared_names
from polyclinic.system.faults import shareable
from polyclinic_client.site.modality import name_modality
from polyclinic_client.site.open_sites import open_site
from polyclinic_client.site.site import Site
from polyclinic_client.site.status import WORKER, StatusFile
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort
from tests.e2e.federation import TINY


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    coarse = [replace(HOSPITALS[0], voxel_mm=(6.0, 6.0, 6.0))]
    return write_cohort(
        tmp_path_factory.mktemp("cohort"), sites=1, subjects=(1, 1, 1), seed=3, scanners=coarse
    )[0]


@pytest.fixture
def site(data: Path, tmp_path: Path) -> Site:
    return Site("mprage-3t", data, tmp_path)


def order(
    *overrides: str, personal: str = "none", number: int = 1, method: str = ""
) -> tuple[Order, torch.Tensor]:
    config = load_config([*TINY, *overrides])
    names, settings = job_settings(config)
    torch.manual_seed(0)
    network = instantiate(config.model)
    digests = job_digests(JobConfig(config.model, config.data, config.training))
    digests["layout"] = layout_digest(network.state_dict(), shared_names(network, "none"))
    made = Order(
        "run", "arm", 0, 3, personal, "0.1.0", names, settings, digests, round=number, method=method
    )
    return made, pack(network.state_dict(), shared_names(network, personal))


def test_a_hospital_introduces_itself(site: Site) -> None:
    hello = site.greet(order()[0])
    assert (hello.site, hello.refusal, hello.modality) == ("mprage-3t", "", "T1")
    assert hello.counts == {"training": 1, "validation": 1, "test": 1}


@pytest.mark.parametrize(
    ("channels", "name"),
    [
        ((), ""),
        (("T1",), "T1"),
        (("T1", "FLAIR"), "T1, FLAIR"),
        (("Red", "Green", "Blue"), "colour"),
        (("x" * 500,), "x" * 200),
    ],
)
def test_images_are_named_by_all_their_channels(channels: tuple[str, ...], name: str) -> None:
    assert name_modality(channels) == name


def test_another_configuration_on_the_other_side_is_refused_with_its_name(site: Site) -> None:
    asked, _ = order()
    other = replace(asked, digests={**asked.digests, "model": "0" * 64})
    assert "conf/model/unet_2d.yaml differs" in site.greet(other).refusal
    with pytest.raises(ConfigMismatch, match="install the same version"):
        site.train(other, torch.zeros(1))


def test_other_labels_are_refused_with_both_lists(site: Site) -> None:
    refusal = site.greet(order("data.labels=[background,tumour]")[0]).refusal
    assert "background, tumour" in refusal and "grey matter" in refusal


def test_a_refusal_is_explained_here_and_only_named_to_the_coordinator(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    damaged = read_dataset(copy).training[0].image[0]
    image = nib.load(damaged)
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), damaged)
    site = Site("mprage-3t", copy, tmp_path / "state")
    refusal = site.greet(order()[0]).refusal
    assert "ImageInvalid" in refusal and damaged.name not in refusal
    kept = StatusFile(tmp_path / "state" / WORKER).read()
    assert kept.doing == "refused"
    for text in (kept.reason, caplog.text):
        assert damaged.name in text and "NaN" in text


def test_a_model_that_this_machine_does_not_know_is_refused(site: Site) -> None:
    asked, _ = order()
    assert (
        "no model called 'other'"
        in site.greet(replace(asked, names={**asked.names, "model": "other"})).refusal
    )


def test_why_it_cannot_take_part_is_said_here_in_full_and_elsewhere_in_part(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    image = site.dataset.training[0].image[0]
    content = image.read_bytes()
    image.write_bytes(b"no image")
    try:
        refusal = site.greet(order()[0]).refusal
    finally:
        image.write_bytes(content)
    assert "ImageUnreadable" in refusal and image.name not in refusal
    assert str(image) in StatusFile(site.state / WORKER).read().reason
    assert str(image) in caplog.text


def test_training_changes_the_weights_and_is_repeatable(
    site: Site, data: Path, tmp_path: Path
) -> None:
    asked, weights = order()
    once, again = site.train(asked, weights), site.train(asked, weights)
    assert not torch.equal(once.weights, weights)
    assert torch.equal(once.weights, again.weights)
    assert once.result.num_examples == 1
    other = Site("another", data, tmp_path / "other").train(asked, weights)
    assert not torch.equal(once.weights, other.weights)  # another hospital draws other samples


def test_what_is_personal_stays_and_is_kept_for_the_next_round(site: Site) -> None:
    first, weights = order(personal="norm")
    trained = site.train(first, weights)
    assert trained.weights.numel() == weights.numel() < order()[1].numel()
    kept = load_state(site.state / "runs" / "run" / "arm" / "personal-1.safetensors")[0]
    assert all(".adn.N." in name or "num_batches" in name for name in kept)
    assert site.validate(first, trained.weights).num_examples == 1


def test_a_round_that_is_asked_for_again_gives_the_same_answer(site: Site) -> None:
    first, weights = order(personal="all")
    site.train(first, weights)
    second, _ = order(personal="all", number=2)
    once, again = site.train(second, weights), site.train(second, weights)
    assert once.result == again.result
    site.train(order(personal="all", number=3)[0], weights)
    assert sorted(path.name for path in (site.state / "runs" / "run" / "arm").iterdir()) == [
        "personal-2.safetensors",
        "personal-3.safetensors",
    ]


def test_weights_of_another_network_are_refused(site: Site) -> None:
    with pytest.raises(ModelInvalid, match="this network has"):
        site.train(order()[0], torch.zeros(3))


def test_the_final_test_leaves_a_model_and_pictures_at_the_hospital(site: Site) -> None:
    asked, weights = order(number=3)
    evaluation = site.test(asked, weights)
    assert set(evaluation.scores) == {"CSF", "grey matter", "white matter"}
    folder = site.state / "runs" / "run" / "arm"
    assert (folder / "model.safetensors").exists()
    assert {path.name for path in (folder / "pictures").iterdir()} == {
        "image.png",
        "truth.png",
        "arm.png",
    }


def test_a_node_that_was_not_started_by_join_says_so() -> None:
    with pytest.raises(DatasetInvalid, match="polyclinic-client join"):
        open_site({})


def test_only_our_own_harmless_sentences_leave_the_hospital() -> None:
    assert shareable(ImageInvalid(Path("/data/john-smith.nii.gz"), "NaN")) == "ImageInvalid"
    assert shareable(ValueError("john-smith.nii.gz")) == "ValueError"
    assert shareable(ConfigError("a setting")) == "ConfigError: a setting"
