"""Attackers on made-up evidence.

Plainly different people are recognized, noise is not, and the strongest counts.
"""

from dataclasses import replace

import pytest
import torch

from polyclinic_strategies.proxy.attacks.attackers import (
    SIAMESE,
    AttackTraining,
    _whitening,
    attack,
    strongest,
)
from polyclinic_strategies.proxy.attacks.evidence import Evidence, collect
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
    return Evidence(
        proxies.half(), originals.half(), torch.rand(people, 2, 2, 60, generator=generator)
    )


def test_people_who_are_plainly_different_are_recognized_by_shape() -> None:
    known, test = collect(NoField(), cases(16), 2, 1), collect(NoField(), cases(12, first=50), 2, 2)
    heard: list[str] = []
    found = attack(known, test, ATLAS, QUICK, lambda name, seed, result: heard.append(name))
    assert set(found) == SHAPES | {TEXTURE} == set(heard)
    assert {
        name: round(found[name][0].auc, 2) for name in SHAPES if found[name][0].auc <= 0.9
    } == {}
    assert found[SIAMESE][0].people == 12 and found[SIAMESE][0].rank1 > 0.5


def test_noise_is_nobody() -> None:
    found = attack(
        noise(16, 1), noise(30, 2), ATLAS, replace(QUICK, siamese_steps=15, registration_steps=5)
    )
    assert {
        name: round(results[0].auc, 2)
        for name, results in found.items()
        if not 0.25 < results[0].auc < 0.75
    } == {}


def test_a_texture_of_ones_own_is_recognized_whatever_the_shape() -> None:
    known, test = noise(16, 1), noise(12, 2)
    for evidence in (known, test):
        evidence.textures[:] = evidence.textures[:, :1] + 0.1 * evidence.textures
    found = attack(known, test, ATLAS, replace(QUICK, siamese_steps=2, registration_steps=2))
    assert found[TEXTURE][0].auc > 0.95 and found[SIAMESE][0].auc < 0.8


def test_restarts_differ_and_are_repeatable() -> None:
    settings = replace(QUICK, siamese_steps=4, restarts=2, only=(SIAMESE,))
    known, test = noise(6, 1), noise(8, 2)
    before = torch.get_rng_state()
    first, again = (attack(known, test, ATLAS, settings) for _ in range(2))
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
    whiten, test = _whitening(draws(80, 1)), draws(30, 2)
    plain, whitened = (
        score(likenesses(tell(test[:, 0, 0]), tell(test[:, 1, 0]))[None])
        for tell in (torch.nn.Identity(), whiten)
    )
    assert plain.auc < 0.7 and whitened.auc > 0.97 and whitened.rank1 > 0.7


def test_whitening_makes_changes_within_a_person_small_and_round() -> None:
    described = draws(40, 1)
    told = torch.stack([_whitening(described)(person[:, 0]) for person in described])
    within = (told - told.mean(1, keepdim=True)).flatten(0, 1)
    spread = torch.linalg.eigvalsh(within.T @ within / len(within))
    assert float(spread.max()) < 1.5  # before: 25 in some directions, 0.01 in others
    turn, _ = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(3)))
    turned = torch.stack(
        [_whitening(described @ turn)((person @ turn)[:, 0]) for person in described]
    )
    # the axes do not matter
    assert torch.allclose(turned @ turned.mT, told @ told.mT, rtol=0.05, atol=0.5)


def test_people_who_are_all_the_same_give_nothing_away() -> None:
    same = torch.ones(4, 2, 1, 60)
    assert not likenesses(_whitening(same)(same[:, 0, 0]), _whitening(same)(same[:, 1, 0])).any()
