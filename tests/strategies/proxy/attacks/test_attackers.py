"""Attackers on made-up evidence.

Plainly different people are recognized, noise is not, and the strongest counts.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from polyclinic_strategies.proxy.attacks.attackers import attack, strongest
from polyclinic_strategies.proxy.attacks.contest import (
    AttackTraining,
    Contest,
    between_visits,
    over_visits,
    whitening,
)
from polyclinic_strategies.proxy.attacks.evidence import Evidence, collect
from polyclinic_strategies.proxy.attacks.registrations import Texture
from polyclinic_strategies.proxy.attacks.siamese import SIAMESE, ProxyAndProxy
from polyclinic_strategies.proxy.attacks.similarities import align, density_ratio
from polyclinic_strategies.proxy.attacks.verification import Recognition, likenesses, score
from polyclinic_strategies.proxy.generator import NoField
from tests.strategies.proxy.strangers import COARSE, case, cases

QUICK = AttackTraining(siamese_steps=30, registration_steps=20, batch=12, restarts=1)
ATLAS = torch.stack([case(person, 0).coarse for person in range(8)]).mean(0)[None]
TEXTURE = "histogram and texture"
SHAPES = {
    SIAMESE,
    "Siamese, several keys averaged",
    "Siamese, proxy and original",
    "registration to the atlas, its field",
    "registration, several keys averaged",
    "nearest original after registration",
    "similarities, proxy and proxy",
    "similarities, proxy and original",
    "Siamese, returned labels",
    "Siamese, patches of the finest voxels",
    "white box, keys drawn for each original",
    "white box, key read off the proxy",
}


@pytest.fixture(autouse=True)
def precise(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 wherever tests run.

    In bfloat16, weight gradients are undefined on volumes as tiny as these: `modes.bf16_autocast`.
    """
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)


def noise(people: int, seed: int) -> Evidence:
    """Nothing of a person is in these."""
    generator = torch.Generator().manual_seed(seed)
    proxies = torch.rand(people, 2, 2, *COARSE, generator=generator)
    originals = torch.rand(people, 2, *COARSE, generator=generator)
    textures = torch.rand(people, 2, 2, 60, generator=generator)
    answers = torch.rand(people, 2, 2, *COARSE, generator=generator)
    patches = torch.rand(people, 2, 8, *COARSE, generator=generator)
    parts = (proxies.half(), originals.half(), textures, answers.half(), patches.half())
    return Evidence(*parts)


def attacked(
    known: Evidence, test: Evidence, settings: AttackTraining, **more: Any
) -> dict[str, list[Recognition]]:
    return attack(Contest(known, test, ATLAS, settings, NoField()), **more)


def test_people_who_are_plainly_different_are_recognized_by_shape() -> None:
    groups = cases(16, finer=2), cases(12, finer=2, first=50)
    known, test = (collect(NoField(), each, 2, seed) for seed, each in enumerate(groups))
    heard: list[str] = []
    told = lambda name, seed, result: heard.append(name)  # noqa: E731
    found = attacked(known, test, QUICK, on_attack=told)
    assert set(found) == SHAPES | {TEXTURE} == set(heard)
    assert {
        name: round(found[name][0].auc, 2) for name in SHAPES if found[name][0].auc <= 0.9
    } == {}
    assert found[SIAMESE][0].people == 12 and found[SIAMESE][0].rank1 > 0.5


def test_noise_is_nobody() -> None:
    brief = replace(QUICK, siamese_steps=15, registration_steps=5)
    found = attacked(noise(16, 1), noise(30, 2), brief)
    assert {
        name: round(results[0].auc, 2)
        for name, results in found.items()
        if not 0.25 < results[0].auc < 0.75
    } == {}


def test_a_texture_of_ones_own_is_recognized_whatever_the_shape() -> None:
    known, test = noise(16, 1), noise(12, 2)
    for evidence in (known, test):
        evidence.textures[:] = evidence.textures[:, :1] + 0.1 * evidence.textures
    found = attacked(
        known, test, replace(QUICK, siamese_steps=2), attackers=(ProxyAndProxy(), Texture())
    )
    assert found[TEXTURE][0].auc > 0.95 and found[SIAMESE][0].auc < 0.8


def test_restarts_differ_and_are_repeatable() -> None:
    settings = replace(QUICK, siamese_steps=4, restarts=2)
    known, test = noise(6, 1), noise(8, 2)
    before = torch.get_rng_state()
    first, again = (attacked(known, test, settings, attackers=(ProxyAndProxy(),)) for _ in range(2))
    assert first == again and set(first) == {SIAMESE, "Siamese, several keys averaged"}
    assert first[SIAMESE][0] != first[SIAMESE][1]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_strongest_is_the_best_mean_and_the_best_restart_counts() -> None:
    def results(*aucs: float) -> list[Recognition]:
        return [Recognition(auc, 0.0, 0.0, 0.0, 1.0, 9) for auc in aucs]

    found = {"steady": results(0.7, 0.7), "lucky": results(0.5, 0.8)}
    assert strongest(found) == ("steady", pytest.approx(0.7), 0.8)
    with pytest.raises(ValueError):
        strongest({})


def test_what_was_moved_is_laid_over_the_atlas_again() -> None:
    moved = torch.roll(ATLAS, 2, 2)
    found = align(moved, ATLAS)
    assert (found - ATLAS).square().mean() < 0.3 * (moved - ATLAS).square().mean()


def test_where_one_person_is_likelier_than_two_the_likeness_is_above_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 20, 20, generator=generator) + 6 * torch.eye(20)
    found = density_ratio(values, torch.tensor([[[6.0, 0.0], [1.0, 5.0]]]))
    assert (found[0].diagonal() > 0).all() and found[0, 0, 1] < 0 and found[0, 1, 0] < 0
    assert not density_ratio(torch.ones(1, 4, 4), torch.ones(1, 2, 2)).any()


def test_other_visits_are_averaged_and_the_third_is_recognized() -> None:
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(40, 1, 30, generator=generator)
    seen = people + 3 * torch.randn(40, 3, 30, generator=generator)
    one, rest = (
        score(tell(seen, torch.nn.Identity(), seen)) for tell in (between_visits, over_visits)
    )
    assert rest.auc > one.auc + 0.03


def draws(people: int, seed: int, within: float = 3.0) -> torch.Tensor:
    """(people, 3 visits, 1 key, 60).

    Identity in five features, much larger changes within a person in five others.
    """
    generator = torch.Generator().manual_seed(seed)
    features = 0.03 * torch.randn(people, 3, 1, 60, generator=generator)
    features[..., :5] += torch.randn(people, 1, 1, 5, generator=generator)
    features[..., 5:10] += within * torch.randn(people, 3, 1, 5, generator=generator)
    return features


def test_whitening_finds_people_where_they_change_more_than_they_differ() -> None:
    whiten, test = whitening(draws(80, 1)), draws(30, 2)
    plain, whitened = (
        score(likenesses(tell(test[:, 0, 0]), tell(test[:, 1, 0]))[None])
        for tell in (torch.nn.Identity(), whiten)
    )
    assert plain.auc < 0.7 and whitened.auc > 0.97 and whitened.rank1 > 0.7


def test_whitening_makes_changes_within_a_person_small_and_round() -> None:
    described = draws(40, 1)
    told = torch.stack([whitening(described)(person[:, 0]) for person in described])
    within = (told - told.mean(1, keepdim=True)).flatten(0, 1)
    spread = torch.linalg.eigvalsh(within.T @ within / len(within))
    assert float(spread.max()) < 1.5  # before: 25 in some directions, 0.01 in others
    turn, _ = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(3)))
    turned = torch.stack(
        [whitening(described @ turn)((person @ turn)[:, 0]) for person in described]
    )
    # the axes do not matter
    assert torch.allclose(turned @ turned.mT, told @ told.mT, rtol=0.05, atol=0.5)


def test_people_who_are_all_the_same_give_nothing_away() -> None:
    same = torch.ones(4, 2, 1, 60)
    assert not likenesses(whitening(same)(same[:, 0, 0]), whitening(same)(same[:, 1, 0])).any()
