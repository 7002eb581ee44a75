"""Training of generator, segmenter and adversary on a few tiny made-up people."""

import itertools
from dataclasses import replace
from statistics import mean

import pytest
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.testing import assert_close

from polyclinic.imaging.deformation import sample
from polyclinic.imaging.smoothing import smooth
from polyclinic.learning.state_dict import state_digest
from polyclinic_strategies.proxy import system as module
from polyclinic_strategies.proxy import training
from polyclinic_strategies.proxy.generator import (
    Field,
    LearnedField,
    NoField,
    RandomField,
    displace,
    draw_keys,
)
from polyclinic_strategies.proxy.settings import ProxyConfig
from polyclinic_strategies.proxy.system import ProxySystem, generator_parameters
from polyclinic_strategies.proxy.training import (
    _MEMORY,
    Trainer,
    _crop_around,
    _start,
    _with_tissues,
)
from tests.strategies.proxy.strangers import CLASSES, COARSE, case, cases

SETTINGS = ProxyConfig(steps=4, more_segmentation=1, people=2, patch=(16, 16, 16))
PARTS = {
    "adversary",
    "segmentation",
    "adversarial",
    "stranger",
    "smoothness",
    "diversity",
    "unfolded",
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a reference of 16 x 16 x 16 voxels, in float32.

    For bfloat16 that is too small, see `modes.bf16_autocast`.
    """
    coarse = torch.stack([case(person, 0).coarse[0] for person in range(6)]).mean(0)
    monkeypatch.setattr(module, "icbm152_reference", lambda spacing_mm, box_mm: None)
    monkeypatch.setattr(module, "coarse_reference", lambda reference: coarse)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)


def made(field: Field | None = None, seed: int = 0) -> ProxySystem:
    torch.manual_seed(seed)
    network = UNet(
        3, 1, CLASSES, channels=(8, 16), strides=(2,), norm=("INSTANCE", {"affine": True})
    )
    return ProxySystem(network, CLASSES, channels=(4, 4, 4), spacing_mm=4.0, field=field)


def trained(
    system: ProxySystem, settings: ProxyConfig = SETTINGS, seed: int = 0, finer: int = 1
) -> dict[str, float]:
    return Trainer(system, cases(4, finer=finer), settings, 0.01, seed).train()


def course(system: ProxySystem, settings: ProxyConfig, name: str) -> list[float]:
    """Return the loss of every step, from the running means that are reported."""
    means: list[float] = []
    Trainer(system, cases(4), settings, 0.02, 0).train(
        lambda step, steps, running: means.append(running[name])
    )
    return [
        means[0],
        *((now - _MEMORY * before) / (1 - _MEMORY) for before, now in itertools.pairwise(means)),
    ]


def digests(system: ProxySystem) -> dict[str, str]:
    assert isinstance(system.field, torch.nn.Module)
    return {
        name: state_digest(part.state_dict())
        for name, part in (
            ("field", system.field),
            ("segmenter", system.segmenter),
            ("adversary", system.adversary),
        )
    }


def test_all_three_learn_and_every_loss_is_told() -> None:
    system = made()
    before, heard = digests(system), []
    found = Trainer(system, cases(4), SETTINGS, 0.01, 0).train(
        lambda step, steps, running: heard.append((step, steps, set(running)))
    )
    assert {name for name, digest in digests(system).items() if digest != before[name]} == {
        "field",
        "segmenter",
        "adversary",
    }
    assert set(found) == PARTS and all(
        torch.isfinite(torch.tensor(value)) for value in found.values()
    )
    assert heard == [(step, 5, PARTS) for step in range(1, 6)]
    assert not any(part.training for part in system.modules())


@pytest.mark.parametrize("changes", [{"keys": 2}, {"adversaries": 2}, {"memory": 2}])
def test_what_makes_adversaries_stronger_changes_the_generator_alike(
    changes: dict[str, int],
) -> None:
    found = []
    for settings in (SETTINGS, *2 * (replace(SETTINGS, **changes),)):
        system = made()
        losses = trained(system, settings)
        assert set(losses) == PARTS
        found.append(digests(system)["field"])
    assert found[1] == found[2] != found[0]


def test_the_segmentation_gets_better() -> None:
    losses = course(made(), replace(SETTINGS, steps=10, more_segmentation=25), "segmentation")
    assert mean(losses[-5:]) < 0.75 * mean(losses[:3])


def test_same_seed_same_weights_another_seed_others() -> None:
    found = []
    for seed in (0, 0, 1):
        system = made()
        trained(system, seed=seed)
        found.append(digests(system))
    assert found[0] == found[1]
    assert not set(found[0].values()) & set(found[2].values())


def test_other_peoples_random_numbers_are_left_alone() -> None:
    system = made()
    before = torch.get_rng_state()
    trained(system)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("field", [RandomField(4.0), NoField()])
def test_a_field_without_weights_trains_the_segmenter_alone(field: Field) -> None:
    system = made(field)
    before = digests(system)
    assert set(trained(system)) == {"segmentation"} and generator_parameters(system) == []
    assert {name for name, digest in digests(system).items() if digest != before[name]} == {
        "segmenter"
    }


def test_the_generator_rests_while_the_segmenter_goes_on() -> None:
    short, long = made(), made()
    settings = replace(SETTINGS, steps=1, more_segmentation=6)
    seen: list[str] = []
    Trainer(long, cases(4), settings, 0.01, 0).train(lambda *_: seen.append(digests(long)["field"]))
    assert len(set(seen)) == 1 and seen[0] != digests(short)["field"]


def test_the_adversary_is_no_part_of_the_generators_step() -> None:
    """Without a weight on anything but the segmentation the generator still learns, and the
    adversary by its own loss alone.
    """
    plain = replace(
        SETTINGS,
        adversarial=0.0,
        stranger=0.0,
        smoothness=0.0,
        diversity=0.0,
        unfolded=0.0,
        steps=1,
        more_segmentation=0,
    )
    weighty = replace(plain, adversarial=100.0)
    found = []
    for settings in (plain, weighty):
        system = made()
        trained(system, settings)
        found.append(digests(system))
    assert found[0]["adversary"] == found[1]["adversary"] and found[0]["field"] != found[1]["field"]


def test_the_stranger_is_learned() -> None:
    """With that goal alone, proxies come to look like the reference warped by the key."""
    goal = replace(
        SETTINGS,
        adversarial=0.0,
        diversity=0.0,
        stranger=1000.0,
        steps=25,
        more_segmentation=0,
        invented_mm=0.0,
    )
    losses = course(made(), goal, "stranger")
    assert mean(losses[-5:]) < 0.8 * mean(losses[:5])


class Keyed(nn.Module):
    """A field that does as the key says, and counts as learned."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, _image: Tensor, key: Tensor) -> Tensor:
        """As `Field`."""
        return key + 0 * self.weight


def test_the_reference_warped_by_the_key_is_the_stranger() -> None:
    system = made(Keyed())
    looks_like_it = [
        replace(
            each,
            middle=system.reference[0]
            .repeat_interleave(2, 1)
            .repeat_interleave(2, 2)
            .repeat_interleave(2, 3),
        )
        for each in cases(4)
    ]
    settings = replace(SETTINGS, steps=2, more_segmentation=0, invented_mm=0.0)
    found = Trainer(system, looks_like_it, settings, 0.01, 0).train()
    assert found["stranger"] < 1e-5 and found["diversity"] < 1e-3
    assert Trainer(system, cases(4), settings, 0.01, 0).train()["stranger"] > 1e-3


class Brightness(nn.Module):
    """Segments the made-up people by how bright they are."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        return -400 * (image - torch.tensor([0.0, 0.45, 0.9]).view(1, -1, 1, 1, 1)).square()


@pytest.mark.parametrize("finer", [1, 2])
def test_an_answer_is_judged_where_it_is_unwarped_to(finer: int) -> None:
    """A segmenter that is right about every proxy costs little however far that is warped, and much
    if the way back is another's.
    """
    system = made(NoField())
    system.segmenter = Brightness()
    size = finer * COARSE[0]
    trainer = Trainer(
        system, cases(2, finer=finer), replace(SETTINGS, patch=(size, size, size)), 0.01, 0
    )
    velocity = smooth(draw_keys(1, (8, 8, 8), torch.Generator().manual_seed(0)), 1.0) * 3
    person = case(0, 0, finer)
    still, warped = (float(trainer._segment(person, each)) for each in (0 * velocity, velocity))
    assert still < 0.01 and warped < 0.3  # the edges of coarse labels blur
    with pytest.MonkeyPatch.context() as patch:
        # there and there again
        patch.setattr(training, "displace", lambda given: displace(velocity))
        assert float(trainer._segment(person, velocity)) > 1.5 * warped


def test_a_reference_finer_than_the_velocity_is_segmented_too() -> None:
    assert set(trained(made(), replace(SETTINGS, invented_mm=0.0), finer=2)) == PARTS


def test_a_patch_larger_than_the_proxy_is_all_of_it() -> None:
    system, other = made(NoField()), made(NoField())
    trained(system, replace(SETTINGS, patch=(64, 16, 20)))
    trained(other, replace(SETTINGS, patch=(16, 16, 16)))
    assert digests(system) == digests(other)


def test_who_came_once_or_is_alone_is_not_enough() -> None:
    with pytest.raises(ValueError, match="two subjects"):
        Trainer(made(), [case(0, 0), case(0, 1), case(1, 0)], SETTINGS, 0.01, 0)


def test_shares_of_tissues_add_up() -> None:
    for finer in (1, 2):
        stacked = _with_tissues(case(0, 0, finer)).float()
        assert stacked.shape == (CLASSES, *COARSE)
        labels = case(0, 0, finer).labels
        assert labels is not None
        for number in (1, 2):
            assert_close(
                stacked[number].mean(), (labels == number).float().mean(), atol=1e-3, rtol=0
            )


def test_a_crop_reads_like_the_whole() -> None:
    volume = torch.randint(
        0, 256, (10, 12, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    for low, high in ((2.0, 6.0), (-5.0, 3.0), (6.0, 20.0), (-3.0, 30.0), (15.0, 19.0)):
        points = low + (high - low) * torch.rand(
            1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1)
        )
        whole = sample(volume[None, None].float(), points)
        assert_close(
            sample(_crop_around(volume, points), points - _start(points)), whole, atol=1e-2, rtol=0
        )


def test_a_system_gives_clients_a_learned_field_only() -> None:
    assert isinstance(made().field, LearnedField)
    for field in (NoField(), RandomField(1.0)):
        with pytest.raises(TypeError, match="learned"):
            made(field).protection(("background", "one", "two"))
    answer = made()(torch.rand(1, 1, 8, 8, 8))
    assert answer.shape == (1, CLASSES, 8, 8, 8)
    assert draw_keys(1, (8, 8, 8), torch.Generator().manual_seed(0)).shape == (1, 3, 8, 8, 8)
