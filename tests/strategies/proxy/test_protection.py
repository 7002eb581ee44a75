"""A hospital's generator.

No proxy twice, labels come back, no key leaves, and a file is as good as what it was written from.
"""

import json
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.nn import functional

from polyclinic.errors import ModelInvalid, RunError
from polyclinic.imaging.deformation import (
    compose,
    identity,
    jacobian_determinant,
    sample,
    upsample,
)
from polyclinic.learning.state_dict import load_state, save_state
from polyclinic.security.secret import Secret
from polyclinic_demos.cohorts.anatomy import subject
from polyclinic_demos.cohorts.hospitals import HOSPITALS
from polyclinic_demos.cohorts.scanner import Scan, acquire
from polyclinic_strategies.proxy import protection as module
from polyclinic_strategies.proxy.frame.atlas import icbm152_reference
from polyclinic_strategies.proxy.frame.canonical import Canonical, ScanNotRecognized, canonicalize
from polyclinic_strategies.proxy.frame.frames import transform
from polyclinic_strategies.proxy.generator import LearnedField, seed_of
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator
from polyclinic_strategies.proxy.protection import (
    Protected,
    Protection,
    coarse_image,
    coarse_reference,
    draw_deformation,
    quantize,
)

REFERENCE = icbm152_reference(2.0)
LABELS = ("background", "CSF", "grey matter", "white matter")
CHANNELS = (4, 4, 4)


def protecting(
    std: float = 0.1, smoothness: float = 1.5, seed: int = 0, labels: tuple[str, ...] = LABELS
) -> Protection:
    """Make a generator without training, which moves a brain by millimetres nevertheless."""
    torch.manual_seed(seed)
    network = FlowGenerator(CHANNELS, smoothness=smoothness)
    nn.init.normal_(network.head.weight, std=std)
    return Protection(LearnedField(coarse_reference(REFERENCE), network), REFERENCE, labels)


@lru_cache(maxsize=1)
def scan() -> Scan:
    return acquire(subject(1), replace(HOSPITALS[0], voxel_mm=(3.0, 3.0, 3.0)), seed=0)


def volume() -> MetaTensor:
    return MetaTensor(
        torch.from_numpy(scan().image.astype(np.float32))[None],
        affine=torch.from_numpy(scan().affine),
    )


@lru_cache(maxsize=1)
def canonical() -> Canonical:
    return canonicalize(volume(), REFERENCE)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the scan once for all tests, which takes seconds."""
    monkeypatch.setattr(module, "canonicalize", lambda volume, reference: canonical())


def dice(found: np.ndarray, truth: np.ndarray, number: int) -> float:
    return float(
        2
        * ((found == number) & (truth == number)).sum()
        / ((found == number).sum() + (truth == number).sum())
    )


def true_answer(protected: Protected) -> np.ndarray:
    """Return a perfect service's answer for a proxy: foreground probabilities, uint8."""
    fine = upsample(protected.ddf, REFERENCE.shape)
    masks = (
        functional.one_hot(torch.from_numpy(scan().label_map).long(), 4)
        .movedim(-1, 0)[None, 1:]
        .float()
    )
    return quantize(
        sample(masks, transform(canonical().to_native, identity(REFERENCE.shape) + fine))[0]
    )


@pytest.mark.parametrize("std", [0.0, 1e-3, 0.01])
def test_a_generator_that_hardly_moves_a_scan_is_refused(registered: None, std: float) -> None:
    for seed in range(3):
        with pytest.raises(ModelInvalid, match="nothing was sent"):
            protecting(std, seed=seed).protect(volume())


def test_a_generator_that_is_not_trained_yet_is_scored_here(registered: None) -> None:
    change = protecting(1e-3).warp(volume()).change
    assert change.median_mm < module.LEAST_MEDIAN_MM


def test_a_generator_that_shifts_the_whole_scan_is_refused(registered: None) -> None:
    made = protecting(0.0)
    bias = made.field.network.head.bias
    assert bias is not None
    nn.init.constant_(bias, 0.5)  # 4 mm along every axis
    with pytest.raises(ModelInvalid, match="nothing was sent"):
        made.protect(volume())


def test_labels_that_were_warped_come_back(registered: None) -> None:
    protected = protecting().protect(volume())
    assert 4.0 * float(protected.ddf.norm(dim=1).mean()) > 3.0  # millimetres
    answer = true_answer(protected)
    back = protected.reveal(answer)
    assert back.shape == scan().label_map.shape and back.dtype == np.uint8
    unmoved = protected.canonical.label_map(torch.from_numpy(answer), None, 255)
    for number in (1, 2, 3):
        assert dice(back, scan().label_map, number) >= 0.97
        assert dice(unmoved, scan().label_map, number) < dice(back, scan().label_map, number) - 0.1
    whole = np.where(answer.max(0) > 127, answer.argmax(0) + 1, 0).astype(np.uint8)
    assert (
        min(dice(protected.reveal(whole), scan().label_map, number) for number in (1, 2, 3)) > 0.9
    )


def test_no_proxy_is_made_twice(registered: None) -> None:
    generator = protecting()
    one, other = generator.protect(volume()), generator.protect(volume())
    assert one.proxy.dtype == np.uint8 and one.proxy.shape == generator.shape == REFERENCE.shape
    assert (one.proxy != other.proxy).mean() > 0.1
    plain = quantize(canonical().image())
    assert (one.proxy != plain).mean() > 0.1
    left = torch.linalg.vector_norm(compose(one.ddf, one.inverse), dim=1)
    assert float(left.mean()) < 0.05
    assert float(jacobian_determinant(one.ddf).min()) > 0


def test_no_key_is_kept(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "draw_seed", lambda: 123_456_789)
    generator = protecting()
    protected = generator.protect(volume())
    assert {field.name for field in fields(protected)} == {
        *("canonical", "proxy", "change", "ddf", "inverse")
    }
    assert "123456789" not in repr(vars(protected)) + repr(vars(generator))
    expected, inverse = draw_deformation(generator.field, coarse_image(canonical()), 123_456_789)
    assert torch.equal(protected.ddf, expected) and torch.equal(protected.inverse, inverse)


def test_a_scan_has_one_proxy_and_another_hospital_or_scan_another(
    registered: None, tmp_path: Path
) -> None:
    made = protecting()
    proxies = {}
    for name in ("a", "b"):
        made.secret = Secret(tmp_path / name / "proxy.secret")
        proxies[name] = made.protect(volume()).proxy
    made.secret = Secret(tmp_path / "a" / "proxy.secret")  # read from its file, as the next day
    assert (made.protect(volume()).proxy == proxies["a"]).all()
    assert (proxies["a"] != proxies["b"]).mean() > 0.1
    brighter = volume()
    brighter[0, 10, 10, 10] += 1
    moved = MetaTensor(volume().as_tensor(), affine=volume().affine + 1e-3)
    seeds = {seed_of(each, made.secret, 0) for each in (volume(), brighter, moved)}
    visits = {seed_of(each, made.secret, 0, "Ada") for each in (volume(), brighter, moved)}
    assert len(visits) == 1 and not visits & seeds  # by the patient's name, if asked
    seeds |= {*visits, seed_of(volume(), made.secret, 0, "Bob")}
    seeds.add(seed_of(volume(), made.secret, 1))  # where the first key folds the image
    assert len(seeds) == 6 and all(0 <= seed < 2**63 for seed in seeds)


def test_a_proxy_says_how_far_it_is_from_its_scan(registered: None) -> None:
    change = protecting().protect(volume()).change
    assert change.median_mm >= module.LEAST_MEDIAN_MM and change.p95_mm > change.median_mm
    assert f"{change.median_mm:.1f} mm" in str(change) and change.difference > 0.01


def test_what_would_fold_never_leaves(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(module, "draw_seed", lambda: drawn.append(1) or len(drawn))
    with pytest.raises(RunError, match="smoothness"):
        protecting(std=30.0, smoothness=0.0).protect(volume())
    assert len(drawn) == module.TRIES


def test_one_key_that_folds_is_replaced(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real, folded = draw_deformation, torch.zeros(1, 3, 40, 48, 40)
    folded[:, 0] = -1.5 * torch.arange(40.0).view(-1, 1, 1)
    answers = iter([(folded, folded)])
    monkeypatch.setattr(
        module, "draw_deformation", lambda *given: next(answers, None) or real(*given)
    )
    assert float(jacobian_determinant(protecting().protect(volume()).ddf).min()) > 0


def test_a_file_is_as_good_as_what_it_was_written_from(tmp_path: Path) -> None:
    written = protecting()
    written.save(tmp_path / "generator.safetensors")
    read = Protection.load(tmp_path / "generator.safetensors")
    assert (read.digest, read.labels, read.shape) == (written.digest, LABELS, REFERENCE.shape)
    np.testing.assert_allclose(read.reference.affine, REFERENCE.affine)
    image = coarse_image(canonical())
    for one, other in zip(
        draw_deformation(read.field, image, 7),
        draw_deformation(written.field, image, 7),
        strict=True,
    ):
        # the reference is stored in 16 bits
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)
    read.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "generator.safetensors"
    ).read_bytes()


def test_the_digest_tells_generators_apart() -> None:
    assert protecting().digest == protecting().digest
    assert (
        len({protecting().digest, protecting(seed=1).digest, protecting(labels=LABELS[:3]).digest})
        == 3
    )


@pytest.mark.parametrize(
    "damage",
    [
        "nothing said",
        "no reference",
        "other channels",
        "a weight more",
        "no numbers",
        "not a table",
    ],
)
def test_what_is_no_generator_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "generator.safetensors"
    protecting().save(path)
    state, metadata = load_state(path)
    described = json.loads(metadata["polyclinic"])
    changes = {
        "nothing said": metadata.clear,
        "no reference": lambda: state.pop("reference.image"),
        "other channels": lambda: described["protection"].update(channels=[4, 4, 5]),
        "a weight more": lambda: state.update({"generator.more": torch.zeros(1)}),
        "no numbers": lambda: described["protection"].update(smoothness="much"),
        "not a table": lambda: described.update(protection=["generator"]),
    }
    changes[damage]()
    save_state(state, path, {"polyclinic": json.dumps(described)} if metadata else {})
    with pytest.raises(ModelInvalid, match=r"generator\.safetensors"):
        Protection.load(path)


def test_another_scan_and_other_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "generator.safetensors").write_bytes(b"no")
    with pytest.raises(ModelInvalid):
        Protection.load(tmp_path / "generator.safetensors")
    with pytest.raises(ScanNotRecognized):
        protecting().protect(MetaTensor(torch.rand(1, 30, 30, 30), affine=torch.eye(4)))


def test_resolutions_agree() -> None:
    coarse = coarse_image(canonical())
    assert coarse.shape == (1, 1, 40, 48, 40) and tuple(coarse_reference(REFERENCE).shape) == (
        40,
        48,
        40,
    )
    plain = functional.avg_pool3d(canonical().image()[None, None], 2)
    assert float(torch.corrcoef(torch.stack([coarse.flatten(), plain.flatten()]))[0, 1]) > 0.999
    image = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.2])
    assert quantize(image).tolist() == [0, 0, 128, 255, 255]
