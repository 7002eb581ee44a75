"""What hospitals say of their features, and how far other images are from them."""

import pytest
import torch
from torch.testing import assert_close

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.release import Release
from polyclinic.errors import TooFewSubjects
from polyclinic_strategies.universal.networks.encoders import average
from polyclinic_strategies.universal.networks.probing import embeddings
from polyclinic_strategies.universal.teaching.teachers import (
    COVARIANCE,
    MEAN,
    Teacher,
    distances,
    feature_statistics,
)

CONFIG = load_config(
    ["model=universal", "data=universal", "model.encoder.widths=[8,8]", "data.patch=[16,16]"]
)
RELEASE = Release(3)


def images(count: int, each: int) -> list[torch.Tensor]:
    """Return `each` images of every person; people differ, and so do a person's images."""
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(count, 1, 3, 16, 16, 1, generator=generator)
    own = torch.randn(count, each, 3, 16, 16, 1, generator=generator)
    return list((0.5 * people + own).flatten(0, 1))


def test_statistics_are_those_of_the_images_every_subject_counting_alike() -> None:
    torch.manual_seed(0)
    network = instantiate(CONFIG.model)
    seen, subjects = images(2, 3)[:5], [0, 0, 0, 1, 1]
    rows = embeddings(network, seen, CONFIG.data, average).double()
    found = feature_statistics(network, seen, subjects, CONFIG.data, Release(2))
    mean = (rows[:3].mean(0) + rows[3:].mean(0)) / 2
    moments = [(part - mean).T @ (part - mean) / len(part) for part in (rows[:3], rows[3:])]
    assert_close(found[MEAN], mean.float())
    assert_close(found[COVARIANCE], (moments[0] + moments[1]).float(), atol=1e-6, rtol=1e-4)


def test_with_one_image_of_each_subject_they_are_the_usual_ones() -> None:
    torch.manual_seed(0)
    network, seen = instantiate(CONFIG.model), images(8, 1)
    rows = embeddings(network, seen, CONFIG.data, average)
    found = feature_statistics(network, seen, list(range(8)), CONFIG.data, RELEASE)
    assert_close(found[MEAN], rows.mean(0))
    assert_close(found[COVARIANCE], rows.T.cov(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("each", [4, 10])
def test_unseen_images_count_however_many_a_subject_has(each: int) -> None:
    torch.manual_seed(0)
    network, seen = instantiate(CONFIG.model), images(24, each)
    half = len(seen) // 2
    subjects = [number // each for number in range(half)]
    statistics = feature_statistics(network, seen[:half], subjects, CONFIG.data, RELEASE)
    one = Teacher("st-john", {}, statistics, half, "")
    unseen = embeddings(network, seen[half:], CONFIG.data, average)
    assert float(distances(one, unseen).median()) < 2.0


def test_too_few_subjects_are_not_described() -> None:
    with pytest.raises(TooFewSubjects):
        feature_statistics(
            instantiate(CONFIG.model), images(2, 5), [0] * 5 + [1] * 5, CONFIG.data, RELEASE
        )


def gaussian(rows: torch.Tensor) -> Teacher:
    centred = rows - rows.mean(0)
    statistics = {MEAN: rows.mean(0), COVARIANCE: centred.T @ centred / (len(rows) - 1)}
    return Teacher("st-john", {}, statistics, len(rows), "")


def test_own_images_are_at_one_and_far_ones_farther() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=generator)
    rows = torch.randn(400, 6, generator=generator) @ mix + 3
    one = gaussian(rows)
    assert_close(distances(one, rows).mean(), torch.tensor(1.0), atol=0.02, rtol=0)
    assert float(distances(one, rows + 10).min()) > float(distances(one, rows).median())


@pytest.mark.parametrize("images", [12, 48, 240])
def test_unseen_images_of_a_hospital_with_few_are_nearer_than_strangers(images: int) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = 0.9 ** torch.arange(180.0)  # as features are: most of the variance in few directions
    mix = torch.linalg.qr(torch.randn(180, 180, generator=generator))[0]
    rows = torch.randn(images + 500, 180, generator=generator) * spread @ mix
    one = gaussian(rows[:images])
    unseen, strangers = (
        distances(one, rows[images:]),
        distances(one, rows[images:] + 3 * rows.std(0)),
    )
    assert float(unseen.median()) < 3.0 and float(strangers.median()) > 2 * float(unseen.median())


def test_a_scale_of_single_numbers_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 4, generator=generator)
    scale = torch.tensor([1e-3, 1.0, 1e3, 7.0])
    assert_close(
        distances(gaussian(rows), rows[:9]),
        distances(gaussian(rows * scale), rows[:9] * scale),
        rtol=1e-3,
        atol=1e-4,
    )


def test_a_number_that_never_changes_does_no_harm() -> None:
    rows = torch.cat(
        [torch.randn(100, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(100, 1)], 1
    )
    assert bool(torch.isfinite(distances(gaussian(rows), rows)).all())


def test_statistics_that_cannot_be_true_give_distances_all_the_same() -> None:
    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    for covariance in (
        torch.zeros(3, 3),
        -torch.eye(3),
        torch.full((3, 3), 1e30),
        torch.tensor([[1.0, 9, 9], [-9, 1, 9], [9, 9, 1]]),
    ):
        found = distances(
            Teacher("st-john", {}, {MEAN: torch.zeros(3), COVARIANCE: covariance}, 9, ""), rows
        )
        assert bool((found >= 0).all()) and not bool(found.isnan().any())
