"""Scans from a folder into the canonical frame and through a generator.

What is kept, what is measured, what is drawn.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polyclinic.config.compose import instantiate, load_config
from polyclinic.errors import DatasetInvalid
from polyclinic.imaging.datasets import Case, read_dataset
from polyclinic.learning.modes import channels_last
from polyclinic.learning.state_dict import load_state, save_state
from polyclinic_demos.cohorts.visits import T1, Visits, write_visits
from polyclinic_strategies.proxy import cases as module
from polyclinic_strategies.proxy.cases import CanonicalCase, prepare_cases
from polyclinic_strategies.proxy.frame import registration
from polyclinic_strategies.proxy.frame.atlas import icbm152_reference
from polyclinic_strategies.proxy.generator import NoField, RandomField
from polyclinic_strategies.proxy.measurements import (
    answer,
    dice_directly,
    dice_through,
    draw_pictures,
    measure_field,
    round_trips,
)
from polyclinic_strategies.proxy.system import ProxySystem

REFERENCE = icbm152_reference(2.0)
CONFIG = load_config(
    [
        "model=proxy",
        "data=proxy_brain",
        "training=proxy",
        "model.channels=[4,4,4]",
        "model.spacing_mm=2.0",
    ]
)
DATA = replace(CONFIG.data, patch=(80, 96, 80))


@pytest.fixture(scope="module", autouse=True)
def quick_registration() -> Iterator[None]:
    """Nobody tilts the head, and all affines are right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "TILTS", registration.TILTS[:1])
        patch.setattr(registration, "TURNS", registration.TURNS[:1])
        yield


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    """Two visits of one person."""
    folder = tmp_path_factory.mktemp("cohort") / "visits"
    write_visits(folder, replace(T1, voxel_mm=(3.0, 3.0, 3.0)), Visits((1, 0, 0)))
    return read_dataset(folder, labelled=False).training


class Brightness(nn.Module):
    """Segments a canonical image by its intensities: fluid is dark, white matter bright."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([0.0, 0.22, 0.62, 1.0]))

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        return -400 * (image - self.levels.view(1, -1, 1, 1, 1)).square()


@pytest.fixture(scope="module")
def system() -> ProxySystem:
    """Make a generator that moves a little, and a segmenter that thresholds brightness."""
    torch.manual_seed(0)
    made: ProxySystem = instantiate(CONFIG.model)
    made.segmenter = Brightness()
    nn.init.normal_(made.field.network.head.weight, std=0.1)  # type: ignore[union-attr]
    made.field.network.smoothness = 1.5  # type: ignore[union-attr]
    return made.eval()


def test_a_prepared_scan_shows_the_reference_brain(scans: tuple[Case, ...], tmp_path: Path) -> None:
    heard: list[tuple[int, int, str]] = []
    prepared = prepare_cases(
        scans, REFERENCE, tmp_path, 4, train=True, on_progress=lambda *news: heard.append(news)
    )
    assert [case.subject for case in prepared] == ["000", "000"] and heard == [
        (1, 2, "000_0"),
        (2, 2, "000_1"),
    ]
    one, other = prepared
    assert one.fine is not None and one.labels is not None
    assert (one.middle.shape, one.fine.shape, one.labels.shape) == (
        (1, 80, 96, 80),
        REFERENCE.shape,
        REFERENCE.shape,
    )
    assert (one.fine.dtype, one.labels.dtype) == (torch.uint8, torch.uint8) and set(
        one.labels.unique().tolist()
    ) == {0, 1, 2, 3}
    pairs = [
        (one.coarse, other.coarse),
        (one.fine.float() / 255, one.middle[0].float()),
        (one.fine.float(), REFERENCE.image),
    ]
    likeness = [
        float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])
        for first, second in pairs
    ]
    assert likeness[0] > 0.97 and likeness[1] > 0.99 and likeness[2] > 0.9
    assert (
        float(one.fine[one.labels == 3].float().mean())
        > float(one.fine[one.labels == 1].float().mean()) + 60
    )


def test_what_was_prepared_is_not_prepared_again(
    scans: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_cases(scans, REFERENCE, tmp_path, 4, train=False)
    assert first[0].shares is not None and first[0].labels is None
    made: list[object] = []
    real = module.canonicalize
    monkeypatch.setattr(module, "canonicalize", lambda *given: made.append(1) or real(*given))
    again = prepare_cases(scans, REFERENCE, tmp_path, 4, train=False)
    assert not made and all(
        torch.equal(one.middle, other.middle) for one, other in zip(first, again, strict=True)
    )
    prepare_cases(scans[:1], REFERENCE, tmp_path, 4, train=True)
    prepare_cases(scans[:1], icbm152_reference(4.0), tmp_path, 4, train=False)
    assert len(made) == 2  # the finest resolution and another reference are something else


def test_a_scan_without_labels_trains_no_segmenter(scans: tuple[Case, ...], tmp_path: Path) -> None:
    bare = replace(scans[0], label=None, subject="")
    # a person of its own
    assert [
        case.subject for case in prepare_cases([bare], REFERENCE, tmp_path, 4, train=False)
    ] == ["000_0"]
    with pytest.raises(DatasetInvalid, match="label map"):
        prepare_cases([bare], REFERENCE, tmp_path, 4, train=True)


def test_a_scan_that_was_changed_is_prepared_again(scans: tuple[Case, ...], tmp_path: Path) -> None:
    image = nib.load(scans[0].image[0])
    copied = tmp_path / "a.nii.gz"
    nib.save(image, copied)
    case = replace(scans[0], image=(copied,))
    (first,) = prepare_cases([case], REFERENCE, tmp_path / "kept", 4, train=False)
    nib.save(nib.Nifti1Image(np.roll(np.asarray(image.dataobj), 3, 0), image.affine), copied)
    (second,) = prepare_cases([case], REFERENCE, tmp_path / "kept", 4, train=False)
    assert not torch.equal(first.middle, second.middle)


def test_fields_are_measured_in_millimetres() -> None:
    people = [CanonicalCase("a", torch.zeros(1, 80, 96, 80).half()) for _ in range(2)]
    still = measure_field(NoField(), people)
    assert (still.strength_mm, still.largest_mm, still.smallest_jacobian, still.folded) == (
        0.0,
        0.0,
        1.0,
        0.0,
    )
    weak, strong = (measure_field(RandomField(strength), people) for strength in (3.0, 12.0))
    assert (
        weak.strength_mm == pytest.approx(3.0, rel=0.2)
        and weak.folded == 0 < weak.smallest_jacobian < 1
    )
    assert (
        strong.largest_mm > strong.strength_mm > 3 * weak.strength_mm
        and strong.smallest_jacobian < weak.smallest_jacobian
    )
    assert measure_field(RandomField(3.0), people) == weak


def test_a_round_trip_costs_little_and_more_the_further_it_goes(
    scans: tuple[Case, ...], system: ProxySystem
) -> None:
    protection = system.protection(DATA.labels)
    found = [
        round_trips(field, protection, scans[:1], DATA)
        for field in (NoField(), RandomField(2.0), RandomField(12.0))
    ]
    assert found[0] > 0.97 and found[0] >= found[1] - 0.002 > found[2]
    assert found[1] > 0.95


def test_scans_are_scored_directly_and_through_their_proxies(
    scans: tuple[Case, ...], system: ProxySystem
) -> None:
    said: list[str] = []
    protection = system.protection(DATA.labels)
    directly = dice_directly(system, protection, scans[:1], DATA, said.append)
    through = dice_through(system, protection, scans[:1], DATA, said.append)
    assert (
        set(directly.dice) == {"CSF", "grey matter", "white matter", "mean"} and directly.cases == 1
    )
    assert directly.dice["grey matter"] > 0.7 and directly.dice["white matter"] > 0.75
    assert abs(directly.dice["mean"] - through.dice["mean"]) < 0.06
    assert ["directly" in text for text in said] == [True, False] and all(
        "test scan 1 of 1" in text for text in said
    )


def test_the_answer_is_the_foreground_in_bytes(system: ProxySystem) -> None:
    proxy = np.zeros((80, 96, 80), np.uint8)
    proxy[:10], proxy[10:20], proxy[20:30] = 56, 158, 255
    found = answer(system.segmenter, proxy, DATA)
    assert found.shape == (3, 80, 96, 80) and found.dtype == np.uint8
    for number in range(3):
        assert (found[number, 10 * number + 2 : 10 * number + 8] > 250).all() and not found[
            number, 40:
        ].any()


def test_pictures_are_named_after_their_scans(
    scans: tuple[Case, ...], system: ProxySystem, tmp_path: Path
) -> None:
    drawn = list(
        draw_pictures(
            tmp_path / "pictures", system, system.protection(DATA.labels), scans[:1], DATA
        )
    )
    assert drawn == [{"file": "pictures/000_0.png", "title": "000_0"}]
    assert (tmp_path / "pictures" / "000_0.png").stat().st_size > 1000


def test_a_system_is_saved_and_read_whole(system: ProxySystem, tmp_path: Path) -> None:
    save_state(channels_last(system).state_dict(), tmp_path / "system.safetensors", {})
    torch.manual_seed(1)
    other: ProxySystem = instantiate(CONFIG.model)
    other.segmenter = Brightness()
    other.load_state_dict(load_state(tmp_path / "system.safetensors")[0])
    assert all(
        torch.equal(value, system.state_dict()[name]) for name, value in other.state_dict().items()
    )
    assert {name.partition(".")[0] for name in other.state_dict()} == {
        "field",
        "segmenter",
        "adversary",
    }
    assert system.reference.shape == (1, 1, 40, 48, 40)
