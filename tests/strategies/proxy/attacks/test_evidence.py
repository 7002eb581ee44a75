"""What attackers are given.

Proxies with keys of their own, originals, and textures that know no shape.
"""

import pytest
import torch
from torch.testing import assert_close

from polyclinic_strategies.proxy.attacks.evidence import TEXTURES, collect, describe_texture
from polyclinic_strategies.proxy.cases import CanonicalCase, group
from polyclinic_strategies.proxy.generator import NoField, RandomField
from tests.strategies.proxy.strangers import COARSE, case, cases


def test_everybody_has_as_many_visits_and_keys() -> None:
    people = [*cases(3, visits=2), case(2, 2), case(9, 0)]  # one came three times, one once
    found = collect(RandomField(4.0), people, keys=3, seed=1)
    assert found.proxies.shape == (3, 2, 3, *COARSE) and found.proxies.dtype == torch.float16
    assert found.originals.shape == (3, 2, *COARSE)
    assert found.textures.shape[:3] == (3, 2, TEXTURES) and found.visits == 2
    assert torch.isfinite(found.textures).all()
    assert_close(found.originals[1, 1].float(), people[3].coarse[0], atol=1e-3, rtol=0)


def test_without_a_field_a_proxy_is_the_original() -> None:
    found = collect(NoField(), cases(2), keys=2, seed=1)
    assert torch.equal(found.proxies[:, :, 0], found.proxies[:, :, 1])
    assert_close(found.proxies[:, :, 0].float(), found.originals.float(), atol=0.01, rtol=0)


def test_every_proxy_has_a_key_of_its_own_and_the_seed_decides() -> None:
    field = RandomField(6.0)
    one, again, other = (collect(field, cases(2), keys=2, seed=seed).proxies for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    flat = one.flatten(0, 2)
    apart = torch.cdist(flat.flatten(1).float(), flat.flatten(1).float())
    assert float(apart[~torch.eye(len(flat), dtype=torch.bool)].min()) > 1.0


def test_a_texture_is_a_histogram_and_no_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(24, 24, 24, generator=generator)
    found = describe_texture(volume)
    assert_close(found[:32].square().sum(), torch.tensor(1.0))
    for turned in (volume.flip(0), volume.flip(1), volume.flip(2)):
        assert_close(describe_texture(turned), found, atol=1e-4, rtol=0)
    shuffled = volume.flatten()[torch.randperm(volume.numel(), generator=generator)].view(
        volume.shape
    )
    assert_close(describe_texture(shuffled)[:32], found[:32])
    blurred = torch.nn.functional.avg_pool3d(volume[None, None], 3, stride=1, padding=1)[0, 0]
    assert (describe_texture(blurred) - found).norm() > 0.5


def test_who_came_once_is_nobody_to_recognize() -> None:
    people = group([case(0, 0), case(1, 0), case(0, 1)])
    assert [[each.subject for each in visits] for visits in people] == [["p0", "p0"]]
    with pytest.raises(ValueError, match="empty"):
        collect(NoField(), [case(0, 0), case(1, 0)], keys=1, seed=0)


def test_the_coarse_image_is_an_average() -> None:
    whole = CanonicalCase("a", torch.rand(1, 8, 8, 8).half())
    assert whole.coarse.shape == (1, 4, 4, 4) and whole.coarse.dtype == torch.float32
    assert_close(whole.coarse[0, 0, 0, 0], whole.middle[0, :2, :2, :2].float().mean())
