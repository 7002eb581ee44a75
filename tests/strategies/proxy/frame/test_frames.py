"""Steps between grids; and a dilation, axis by axis."""

import torch
from torch.nn import functional

from polyclinic_strategies.proxy.frame.frames import dilate


def test_axis_by_axis_is_the_same_as_a_cube_at_once() -> None:
    volume = torch.rand(1, 1, 9, 12, 7, generator=torch.Generator().manual_seed(0))
    for reach in (1, 3):
        cube = functional.max_pool3d(volume, 2 * reach + 1, stride=1, padding=reach)
        assert torch.equal(dilate(volume, reach), cube)
