"""The network of a plan: its stages follow from patch and voxel size."""

import pytest
import torch

from polyclinic.learning.networks.dynunet import PlannedUNet
from polyclinic.learning.networks.topology import plan_topology


def test_stages_of_the_published_plans() -> None:
    """Prostate of the Decathlon, nnU-Net's own plan: 20 x 320 x 256 at 3.6 x 0.62 x 0.62 mm."""
    found = plan_topology((20, 320, 256), (3.6, 0.62, 0.62))
    assert found.strides == (
        (1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2),
    )  # fmt: skip
    assert found.kernels[:2] == ((1, 3, 3), (1, 3, 3))
    assert set(found.kernels[2:]) == {(3, 3, 3)}


def test_hippocampus_has_four_stages() -> None:
    found = plan_topology((40, 56, 40), (1.0, 1.0, 1.0))
    assert found.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert found.patch == (40, 56, 40)


def test_a_patch_is_enlarged_until_strides_divide_it() -> None:
    assert plan_topology((41, 56, 40), (1.0, 1.0, 1.0)).patch == (48, 56, 40)


def test_axes_of_patch_and_voxel_must_agree() -> None:
    with pytest.raises(ValueError, match="2 axes and 3"):
        plan_topology((40, 40), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("residual", [False, True])
def test_lower_stages_are_judged_while_training(residual: bool) -> None:
    network = PlannedUNet((32, 32), None, 1, 3, features=4, residual=residual)
    image = torch.randn(2, 1, 32, 32)
    several = network.train()(image)
    assert [each.shape[2:] for each in several] == [(32, 32), (16, 16)]
    assert network.eval()(image).shape == (2, 3, 32, 32)
    assert len(network.state_dict()) == len(list(network.parameters()))  # nothing twice
