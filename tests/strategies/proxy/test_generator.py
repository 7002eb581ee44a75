import pytest
import torch
from torch import nn
from torch.testing import assert_close

from polyclinic.imaging.deformation import compose, jacobian_determinant, warp
from polyclinic.imaging.smoothing import smooth
from polyclinic_strategies.proxy.generator import (
    STRANGER_MM,
    VELOCITY_MM,
    LearnedField,
    NoField,
    RandomField,
    displace,
    draw_keys,
    draw_seed,
    shrink,
    warp_coarsely,
)
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator

SHAPE = (12, 16, 12)
IMAGE = torch.rand(2, 1, 24, 32, 24, generator=torch.Generator().manual_seed(0))


def keys(number: int = 1, seed: int = 0) -> torch.Tensor:
    return draw_keys(number, SHAPE, torch.Generator().manual_seed(seed))


def rms_mm(velocity: torch.Tensor) -> list[float]:
    return (VELOCITY_MM * velocity.square().sum(1).mean((1, 2, 3)).sqrt()).tolist()


def test_keys_are_decided_by_their_seed_and_are_all_as_strong() -> None:
    assert torch.equal(keys(3, seed=5), keys(3, seed=5))
    assert not torch.allclose(keys(3, seed=6), keys(3, seed=5), atol=0.1)
    drawn = keys(3)
    assert drawn.shape == (3, 3, *SHAPE)
    assert not torch.allclose(drawn[0], drawn[1], atol=0.1)
    assert rms_mm(drawn) == pytest.approx([STRANGER_MM] * 3, rel=1e-5)


def test_keys_are_smooth_enough_not_to_fold() -> None:
    for seed in range(5):
        assert float(jacobian_determinant(displace(keys(seed=seed))).min()) > 0
    rough = keys().diff(dim=2).square().mean() / keys().square().mean()
    assert float(rough) < 1.0  # white noise has 2


def test_seeds_are_not_repeated_and_fit_a_generator() -> None:
    seeds = [draw_seed() for _ in range(200)]
    assert len(set(seeds)) == 200 and min(seeds) >= 0 and 2**60 < max(seeds) < 2**63
    torch.Generator().manual_seed(max(seeds))


def test_a_constant_velocity_is_a_translation_on_every_grid() -> None:
    velocity = torch.tensor([0.5, -0.25, 0.0]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    assert_close(displace(velocity), velocity.contiguous())
    fine = displace(velocity, (24, 32, 24))  # the same millimetres in voxels half as wide
    assert_close(fine, 2 * velocity[:, :, :1, :1, :1].expand(1, 3, 24, 32, 24).contiguous())


@pytest.mark.parametrize("finer", [1, 2])
def test_the_negative_velocity_undoes(finer: int) -> None:
    height, width, depth = (finer * size for size in SHAPE)
    velocity = smooth(keys(), 1.0)
    there, back = (
        displace(velocity, (height, width, depth)),
        displace(-velocity, (height, width, depth)),
    )
    inner = (
        ...,
        slice(2 * finer, -2 * finer),
        slice(2 * finer, -2 * finer),
        slice(2 * finer, -2 * finer),
    )
    assert float(there.norm(dim=1).max()) > 0.3 * finer
    assert float(compose(there, back)[inner].norm(dim=1).max()) < 0.1 * finer
    assert float(jacobian_determinant(there).min()) > 0


def test_nothing_moves_without_a_field() -> None:
    assert not NoField()(IMAGE, keys(2)).any()
    assert_close(warp_coarsely(IMAGE, NoField()(IMAGE, keys(2))), IMAGE)


def test_a_random_field_is_the_key_whoever_the_patient_is() -> None:
    field = RandomField(strength_mm=4.0)
    found = field(IMAGE, keys(2))
    assert rms_mm(found) == pytest.approx([4.0, 4.0], rel=1e-5)
    assert_close(found, keys(2) * (4.0 / STRANGER_MM))
    assert torch.equal(field(IMAGE.flip(2), keys(2)), found)
    smoother = RandomField(4.0, smoothness=2.0)(IMAGE, keys(2))
    assert rms_mm(smoother) == pytest.approx([4.0, 4.0], rel=1e-5)
    assert smoother.diff(dim=2).square().mean() < found.diff(dim=2).square().mean() / 2
    assert not list(field.parameters())


def test_the_displacement_is_about_as_strong_as_the_velocity() -> None:
    assert rms_mm(displace(RandomField(4.0)(IMAGE, keys(2)))) == pytest.approx([4.0, 4.0], rel=0.1)


def test_a_learned_field_sees_image_key_and_reference() -> None:
    torch.manual_seed(0)
    network = FlowGenerator((4, 4, 4))
    nn.init.normal_(network.head.weight, std=1.0)
    reference = torch.rand(24, 32, 24)
    field = LearnedField(reference, network).eval()
    found = field(IMAGE, keys(2)).detach()
    assert found.shape == (2, 3, *SHAPE)
    for other in (
        field(IMAGE.flip(2), keys(2)),
        field(IMAGE, keys(2, seed=1)),
        LearnedField(1 - reference, network)(IMAGE, keys(2)),
    ):
        assert not torch.allclose(other, found, atol=1e-3)
    assert [
        name for name in field.state_dict() if "reference" in name
    ] == []  # everybody has the reference


def test_coarse_warps_are_fine_ones() -> None:
    velocity = smooth(keys(2), 1.0)
    assert_close(
        warp_coarsely(IMAGE, velocity),
        warp(IMAGE, displace(velocity, (24, 32, 24))),
        atol=0.15,
        rtol=0,
    )
    assert_close(shrink(IMAGE, 2)[0, 0, 0, 0, 0], IMAGE[0, 0, :2, :2, :2].mean())


def test_ill_shaped_velocities_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        displace(torch.zeros(1, 2, *SHAPE))
    with pytest.raises(ValueError, match="finer grid"):
        displace(torch.zeros(1, 3, *SHAPE), (6, 8, 6))
