import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from polyclinic_strategies.proxy.losses import (
    TEMPERATURE,
    focal_tversky,
    folding,
    identity_leak,
    recognition,
    roughness,
    sameness,
)

# four classes, 15 voxels each
LABELS = torch.arange(4).view(1, 4, 1, 1).expand(2, 4, 3, 5).contiguous()
KNOWN = torch.ones(LABELS.shape)


def certain(labels: Tensor, classes: int = 4) -> Tensor:
    return functional.one_hot(labels, classes).movedim(-1, 1).float()


def test_a_perfect_segmentation_costs_nothing_and_an_empty_one_everything() -> None:
    assert float(focal_tversky(certain(LABELS), LABELS, KNOWN)) < 1e-4
    nothing = focal_tversky(certain(torch.zeros_like(LABELS)), LABELS, KNOWN)
    assert_close(nothing, torch.tensor((1 - 1 / (0.7 * 15 + 1)) ** 0.75))  # no hit, 15 missed
    # nothing to find, none found
    assert (
        float(focal_tversky(certain(torch.zeros_like(LABELS)), torch.zeros_like(LABELS), KNOWN))
        < 1e-4
    )


def test_what_is_missed_costs_more_than_what_is_too_much() -> None:
    """By hand: of 15 voxels 5 are missed, or 5 are found too much; the other classes are right."""
    labels = torch.zeros(1, 60).long()
    labels[:, :15] = 1
    for shifted, false, missed in (
        (labels.clone().index_fill_(1, torch.arange(5), 0), 0, 5),
        (labels.roll(5, 1) | labels, 5, 0),
    ):
        both = 15 - missed
        index = (both + 1) / (both + 0.3 * false + 0.7 * missed + 1)
        assert_close(
            focal_tversky(certain(shifted, 2), labels, torch.ones(1, 60)),
            torch.tensor((1 - index) ** 0.75),
        )


def test_voxels_of_which_nothing_is_known_do_not_count() -> None:
    known = KNOWN.clone()
    known[..., 2:] = 0
    wrong = certain(torch.where(known > 0, LABELS, 3 - LABELS))
    assert float(focal_tversky(wrong, LABELS, known)) < 1e-4
    assert float(focal_tversky(wrong, LABELS, KNOWN)) > 0.3
    assert float(focal_tversky(wrong, LABELS, 0 * KNOWN)) < 1e-4


def test_the_roughness_of_a_linear_velocity_is_its_slope_squared() -> None:
    velocity = torch.zeros(1, 3, 6, 7, 8)
    velocity[:, 0] = 0.5 * torch.arange(6.0).view(-1, 1, 1)
    assert_close(roughness(velocity), torch.tensor(0.25 / 3))  # one of three components
    velocity[:, 1] = -2 * torch.arange(8.0)
    assert_close(roughness(velocity), torch.tensor(0.25 / 3 + 4 / 3))
    assert float(roughness(torch.full((1, 3, 4, 4, 4), 7.0))) == 0


def test_folding_counts_how_far_the_determinant_is_too_small() -> None:
    squeezed = torch.zeros(1, 3, 6, 6, 6)
    squeezed[:, 0] = -0.9 * torch.arange(6.0).view(-1, 1, 1)  # det J = 0.1
    assert_close(folding(squeezed), torch.tensor(0.1), atol=1e-6, rtol=0)
    squeezed[:, 0] = -1.5 * torch.arange(6.0).view(-1, 1, 1)  # -0.5: folded
    assert_close(folding(squeezed), torch.tensor(0.7), atol=1e-6, rtol=0)
    assert float(folding(0.5 * squeezed)) == 0  # 0.25


def test_two_proxies_are_to_differ_as_strangers_do() -> None:
    first = torch.rand(2, 1, 4, 4, 4)
    wanted = torch.tensor([0.04, 0.04])
    assert_close(sameness(first, first, wanted), torch.tensor(1.0))
    assert_close(sameness(first, first + 0.1, wanted), torch.tensor(0.75))
    assert float(sameness(first, first + 0.3, wanted)) == 0  # more is not rewarded
    assert_close(
        sameness(first, torch.stack([first[0] + 0.2, first[1]]), wanted),
        torch.tensor(0.5),
        atol=1e-5,
        rtol=0,
    )


def test_recognition_of_orthogonal_people() -> None:
    people = torch.eye(4)
    right = math.log(1 + 3 * math.exp(-1 / TEMPERATURE))
    assert_close(recognition(people, people), torch.tensor(right), atol=1e-6, rtol=0)
    assert_close(recognition(people, people.roll(1, 0)), torch.tensor(right + 1 / TEMPERATURE))
    same = people[:1].expand(4, -1)
    # told nothing: one of four by chance
    assert_close(recognition(same, same), torch.tensor(math.log(4)))
    assert_close(
        recognition(people[[2, 0, 1, 3]], people[[2, 0, 1, 3]]), recognition(people, people)
    )


def test_nothing_is_betrayed_where_nothing_is_told() -> None:
    people = torch.eye(4)
    assert float(identity_leak(people, people)) == 1
    assert float(identity_leak(people[:1].expand(4, -1), people[:1].expand(4, -1))) == 0
    # to look less alike than strangers is no gain
    assert float(identity_leak(people, people.roll(1, 0))) == 0


@pytest.mark.parametrize("loss", [recognition, identity_leak])
def test_features_of_other_lengths_are_refused(loss) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RuntimeError):
        loss(torch.eye(4), torch.eye(5))


def test_labels_of_another_grid_are_refused() -> None:
    with pytest.raises(RuntimeError):
        focal_tversky(certain(LABELS), LABELS[:, :3], KNOWN[:, :3])
