"""Foreground voxels of each class."""

import torch

from polyclinic.learning.cases.foreground_voxels import MOST, find_foreground


def test_all_voxels_of_the_classes_that_occur() -> None:
    label = torch.zeros(1, 4, 5, 6, dtype=torch.uint8)
    label[0, 1, 2, 3] = label[0, 3, 0, 5] = 3
    label[0, 2, 2, 2] = 1
    found = find_foreground(label, 4)
    assert [each.tolist() for each in found] == [[[2, 2, 2]], [[1, 2, 3], [3, 0, 5]]]
    assert find_foreground(torch.zeros_like(label), 4) == ()


def test_a_large_class_keeps_a_random_part_always_the_same() -> None:
    label = torch.zeros(1, 40, 40, 40, dtype=torch.uint8)
    label[:, :, :20] = 1
    (found,) = find_foreground(label, 2)
    (again,) = find_foreground(label, 2)
    assert found.shape == (MOST, 3) and torch.equal(found, again)
    assert len(found.unique(dim=0)) == MOST
    assert bool((label[0, *found.long().unbind(1)] == 1).all())
    assert abs(float(found[:, 0].float().mean()) - 19.5) < 1
