"""The attacks on updates and models: small, on drawn images."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import attacks
from leaks.images import draw_spots, make_network, similarity
from leaks.imprint import imprint, is_refused
from leaks.inversion import gradients, invert, matched, steps_on, update_of
from leaks.members import auc, confidence, mixed


def test_inversion_finds_more_of_an_image_than_it_began_with() -> None:
    (images, labels), network = draw_spots(1), make_network()
    update = -gradients(network, images, labels, graph=False)
    scores = [
        float(matched(invert(network, update, labels, steps, 0), images)[1]) for steps in (1, 120)
    ]
    assert scores[1] > scores[0] + 0.3
    one = update_of(network, steps_on(network, images, labels, 0.1))
    assert torch.allclose(one, 0.1 * update, atol=1e-6)


def test_an_imprint_takes_images_noise_keeps_them_and_the_guard_refuses() -> None:
    images, _ = draw_spots(4)
    plain, noisy = (imprint(images, images, noise)[1] for noise in (None, 1.0))
    assert float(plain.max()) > 0.95 and float(noisy.max()) < 0.5
    assert is_refused(images)


def test_pairs_and_areas_are_those_on_paper() -> None:
    images, labels = draw_spots(3)
    ordered, scores = matched(images.flip(0), images)
    assert torch.equal(ordered, images) and torch.allclose(scores, torch.ones(3), atol=1e-4)
    assert similarity(images[:1], images[1:2]).item() < 0.9
    assert auc(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.0])) == 0.75
    one, other = make_network(0), make_network(1)
    halves = mixed([one, other], [0.5, 0.5])
    weights = [next(network.parameters()).detach() for network in (one, other, halves)]
    assert torch.allclose(weights[2], (weights[0] + weights[1]) / 2)
    assert confidence(one, images, labels).isfinite().all()


def test_the_command_writes_tables_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "EPSILONS", (8.0,))
    attacks.main(["--smoke", str(tmp_path)])
    found = json.loads((tmp_path / "attacks.json").read_text())
    assert len(found["inversion"]) == 7 and len(found["membership"]) == 9
    assert found["imprint"][-1]["taken"] == 0.0
    page = (tmp_path / "attacks.html").read_text()
    assert page.count("data:image/png") == 2 and page.count("<table>") == 3
