"""nnU-Net's augmentation: movements by hand, statistics that stay, and who may be mirrored."""

import math

import pytest
import torch
from torch.testing import assert_close

from polyclinic.config.compose import instantiate, load_data
from polyclinic.config.mirroring import augmentation_of, describe_mirroring, mirrored_axes
from polyclinic.learning.augmenting import nnunet as nnunet_augmentation
from polyclinic.learning.augmenting.nnunet import NnUNetAugmentation, _contrast, _gamma
from polyclinic.learning.crops import crop

CHANCES = (
    "ROTATION", "SCALING", "NOISE", "BLUR", "BRIGHTNESS", "CONTRAST", "COARSENESS",
    "INVERTED_GAMMA", "GAMMA", "MIRROR",
)  # fmt: skip
PATCHES = [(24, 24), (16, 48), (12, 14, 16), (40, 40, 6)]


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    """Make some of the changes certain and leave out the others."""

    def chosen(*names: str) -> None:
        for name in CHANCES:
            monkeypatch.setattr(nnunet_augmentation, name, float(name in names))

    return chosen


def made(dims: int, seed: int = 0, **options: object) -> NnUNetAugmentation:
    found = NnUNetAugmentation(dims, **options)  # type: ignore[arg-type]
    found.set_random_state(seed=seed)
    return found


@pytest.mark.parametrize("patch", PATCHES)
def test_nothing_drawn_changes_nothing(only, patch: tuple[int, ...]) -> None:
    only()
    image, label = torch.randn(2, *patch), torch.randint(3, (1, *patch))
    found = made(len(patch))({"image": image, "label": label})
    assert torch.equal(found["image"], image) and torch.equal(found["label"], label)


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("names", [("ROTATION",), ("SCALING",), ("ROTATION", "SCALING")])
def test_a_linear_ramp_stays_linear_under_movement(
    only, patch: tuple[int, ...], names: tuple[str, ...]
) -> None:
    """Interpolating a ramp at turned places gives a ramp, whose slope shows angle and scale."""
    only(*names)
    whole = torch.stack(torch.meshgrid(*[torch.arange(200.0)] * len(patch), indexing="ij"))
    whole = whole if len(patch) == 2 else whole[:, :120, :120, :120]
    starts = [(size - wanted) // 2 for size, wanted in zip(whole.shape[1:], patch, strict=True)]
    middle = torch.tensor([at + (wanted - 1) / 2 for at, wanted in zip(starts, patch, strict=True)])
    for seed in range(8):
        augmentation = made(len(patch), seed)
        cut = crop(whole, starts, patch, augmentation.enlarge(patch))
        found = augmentation({"image": cut})["image"]
        assert found.shape == (len(patch), *patch)
        assert_close(found.flatten(1).mean(1), middle, atol=1e-3, rtol=0)
        slopes = [found.diff(dim=axis + 1).flatten(1) for axis in range(len(patch))]
        assert max(float(each.std(1).max()) for each in slopes) < 1e-3
        steps = torch.stack([each.mean(1) for each in slopes])
        gram = steps @ steps.T  # of a rotation times a scale
        sizes = gram.diagonal().sqrt()
        assert float((gram - gram.diagonal().diag()).abs().max()) < 1e-3
        low, high = (0.7, 1.4) if "SCALING" in names else (1.0, 1.0)
        assert float(sizes.min()) > low - 1e-3 and float(sizes.max()) < high + 1e-3
        if "ROTATION" not in names:
            assert_close(steps, steps.diagonal().diag(), atol=1e-4, rtol=0)
        if patch == (40, 40, 6):  # a thin patch is turned and scaled in its plane alone
            assert_close(steps[2], torch.tensor([0.0, 0.0, 1.0]), atol=1e-4, rtol=0)
        elif len(patch) == 3 and "SCALING" not in names:
            angle = math.degrees(math.acos(min(1.0, (float(steps.diagonal().sum()) - 1) / 2)))
            assert angle <= 30 * math.sqrt(3) + 1


def test_image_and_label_move_alike(only) -> None:
    only("ROTATION", "SCALING", "MIRROR")
    label = torch.zeros(1, 40, 40)
    label[:, 8:20, 10:34] = 1
    for seed in range(10):
        augmentation = made(2, seed)
        larger = augmentation.enlarge((24, 24))
        cut = crop(label, [8, 8], (24, 24), larger)
        found = augmentation({"image": cut * 2 - 1, "label": cut})
        wrong = ((found["image"][0] > 0) != (found["label"][0] > 0.5)).float().mean()
        assert set(found["label"].unique().tolist()) <= {0.0, 1.0} and float(wrong) < 0.06


@pytest.mark.parametrize("name", CHANCES[2:9])
@pytest.mark.parametrize("patch", [(24, 24), (12, 14, 16)])
def test_intensities_change_and_air_stays(only, name: str, patch: tuple[int, ...]) -> None:
    only(name)
    image, label = torch.randn(2, *patch), torch.randint(3, (1, *patch))
    image[:, :4] = 0
    changed = 0
    for seed in range(6):
        found = made(len(patch), seed)({"image": image, "label": label})
        again = made(len(patch), seed)({"image": image, "label": label})
        assert torch.equal(found["image"], again["image"])
        assert not found["image"][:, :4].any() and torch.equal(found["label"], label)
        assert bool(found["image"].isfinite().all())
        changed += not torch.equal(found["image"], image)
    assert changed >= 3  # blur and low resolution leave out half of the channels


def test_gamma_and_contrast_by_hand() -> None:
    channel = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    bent = _gamma(channel, 2.0)
    assert_close(bent.mean(), channel.mean())
    assert_close(bent.std(), channel.std())
    assert_close(_gamma(channel, 1.0), channel)
    assert_close(_contrast(channel, 0.5), torch.tensor([[1.0, 1.5], [2.0, 3.5]]))
    assert_close(_contrast(channel, 2.0), torch.tensor([[0.0, 0.0], [2.0, 5.0]]))
    assert not _gamma(torch.zeros(4, 4), 1.3).any()


@pytest.mark.parametrize(
    ("labels", "mirroring", "axes"),
    [
        ("[background,tumour]", "auto", (0, 1, 2)),
        ("[background,left kidney,right kidney]", "auto", (1, 2)),
        ("[background,left kidney,right kidney]", "on", (0, 1, 2)),
        ("[background,tumour]", "off", (1, 2)),
    ],
)
def test_left_and_right_are_mirrored_only_where_no_label_names_a_side(
    labels: str, mirroring: str, axes: tuple[int, ...]
) -> None:
    data = load_data(["data=planned", f"data.labels={labels}", f"data.mirroring={mirroring}"])
    (part,) = augmentation_of(data)
    assert mirrored_axes(data) == axes == instantiate(part).mirrored_axes
    assert bool(describe_mirroring(data)) == (mirroring == "auto" and axes != (0, 1, 2))


def test_the_axis_from_left_to_right_follows_the_orientation() -> None:
    sides = "data.labels=[background,left lung,right lung]"
    data = load_data(["data=planned_2d", sides, "data.orientation=PLS"])
    assert mirrored_axes(data) == (0,) == instantiate(augmentation_of(data)[0]).mirrored_axes
