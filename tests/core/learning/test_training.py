"""Training, evaluation and prediction on small synthetic hospitals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from polyclinic.config.schemas import DataConfig, ShiftsConfig, TrainingConfig
from polyclinic.errors import ConfigError, ImageInvalid
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.imaging.volumes import read_label, write_label_map
from polyclinic.learning import training
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.prediction import evaluate_natively, predict_label_map, predict_values
from polyclinic.learning.preparation import PreparedSite, prepare

LABELS = ("background", "rind", "core")
DATA = DataConfig(
    task="segmentation",
    channels=1,
    labels=LABELS,
    orientation="RAS",
    spacing_mm=(2.0, 2.0, 2.0),
    patch=(16, 16, 16),
    samples_per_case=2,
    cache_gb=1.0,
    intensity=({"_target_": "monai.transforms.ScaleIntensityd", "keys": "image"},),
    augment=(
        {
            "_target_": "monai.transforms.RandFlipd",
            "keys": ["image", "label"],
            "prob": 0.5,
            "spatial_axis": 0,
        },
    ),
)
TRAINING = TrainingConfig(
    epochs=8,
    batch_size=2,
    learning_rate=0.05,
    optimizer={"_target_": "torch.optim.Adam", "lr": 0.05},
    loss={"_target_": "monai.losses.DiceCELoss", "to_onehot_y": True, "softmax": True},
)
LONG = replace(TRAINING, epochs=30, optimizer={"_target_": "torch.optim.Adam", "lr": 0.1})
CLASSIFYING = replace(TRAINING, loss={"_target_": "torch.nn.CrossEntropyLoss"})


class Threshold(nn.Module):
    """Logits from the brightness alone: 0, 0.5, 1 are the three classes."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([-30 * (image[:, :1] - level) ** 2 for level in (0, 0.5, 1)], 1)


def affine_of(
    codes: str, spacing_mm: tuple[float, float, float], shape: tuple[int, ...]
) -> np.ndarray:
    """Make axes along `codes`, `spacing_mm` along right, anterior, superior; centre at 0."""
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    ras_shape = [shape[int(axis)] for axis in turn[:, 0]]
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(ras_shape) - 1) / 2)
    return affine @ nib.orientations.inv_ornt_aff(turn, ras_shape)


def ball(
    affine: np.ndarray, shape: tuple[int, ...], centre: tuple[float, float, float]
) -> np.ndarray:
    """2 up to 7 mm from the centre, 1 up to 12 mm, 0 beyond."""
    places = (
        np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) @ affine[:3, :3].T
        + affine[:3, 3]
    )
    away = np.linalg.norm(places - np.array(centre), axis=-1)
    return np.where(away < 7, 2, np.where(away < 12, 1, 0)).astype(np.uint8)


def write_case(
    folder: Path,
    name: str,
    codes: str = "RAS",
    spacing_mm: Any = (2.0, 2.0, 2.0),
    shape: Any = (18, 20, 16),
) -> dict[str, str]:
    affine = affine_of(codes, spacing_mm, shape)
    label = ball(affine, shape, (2.0, -3.0, 1.0))
    nib.save(nib.Nifti1Image(label, affine), folder / f"{name}_label.nii.gz")
    nib.save(nib.Nifti1Image((label * 50).astype(np.int16), affine), folder / f"{name}.nii.gz")
    return {"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz"}


def describe(folder: Path, labels: tuple[str, ...], **splits: Any) -> SiteDataset:
    tree = {
        "modality": {"0": "T1"},
        "labels": {str(n): name for n, name in enumerate(labels)},
        **splits,
    }
    (folder / "dataset.json").write_text(json.dumps(tree))
    return read_dataset(folder)


@pytest.fixture
def dataset(tmp_path: Path) -> SiteDataset:
    entries = [write_case(tmp_path, name) for name in "abcd"]
    return describe(
        tmp_path, LABELS, training=entries[:2], validation=entries[2:3], test=entries[3:]
    )


@pytest.fixture
def prepared(dataset: SiteDataset) -> PreparedSite:
    return prepare(dataset, DATA)


def small_network(dims: int = 3, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    conv: Any = nn.Conv3d if dims == 3 else nn.Conv2d
    return nn.Sequential(conv(1, 16, 1), nn.Tanh(), nn.Dropout(dropout), conv(16, 3, 1))


def test_a_small_network_learns(prepared: PreparedSite, dataset: SiteDataset) -> None:
    network = small_network()
    before = training.evaluate(network, prepared.validation, DATA, TRAINING)
    steps: list[tuple[int, int, float]] = []
    result = training.fit(
        network,
        training_loader(prepared, LONG, 0),
        LONG,
        DATA,
        on_step=lambda *step: steps.append(step),
    )
    after = training.evaluate(network, prepared.validation, DATA, TRAINING)
    assert (result.steps, result.num_examples) == (60, 2)
    assert steps[0][:2] == (1, 60) and steps[-1][:2] == (60, 60)
    assert result.loss == pytest.approx(np.mean([loss for _, _, loss in steps]))
    assert before.loss is not None and after.loss is not None and after.loss < before.loss / 2
    assert after.score > 0.9 and set(after.scores) == {"rind", "core"} and after.num_examples == 1
    assert training.evaluate(network, prepared.validation, DATA).loss is None
    tested, cases = evaluate_natively(network, dataset, DATA)
    assert tested.score > 0.9 and [(case.name, case.split) for case in cases] == [("d", "test")]
    assert cases[0].scores == tested.scores


def test_equal_seeds_train_alike_bit_for_bit(prepared: PreparedSite) -> None:
    def train(seed: int) -> dict[str, Tensor]:
        network = small_network(dropout=0.3)
        torch.manual_seed(
            np.random.default_rng().integers(1000)
        )  # the process's own random state does not matter
        state = torch.get_rng_state()
        training.fit(network, training_loader(prepared, TRAINING, seed), TRAINING, DATA)
        assert torch.equal(state, torch.get_rng_state())
        return network.state_dict()

    first, second, third = train(3), train(3), train(4)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], third[key]) for key in first)


@pytest.mark.parametrize("patch", [(16, 16, 16), (16, 16)])
def test_generated_shifts_change_images_and_neither_air_nor_labels(
    dataset: SiteDataset, patch: tuple[int, ...]
) -> None:
    data = replace(DATA, patch=patch)
    site = prepare(dataset, data)
    shifts = ShiftsConfig(
        gamma=1.0, inversion=0.5, bias_field=1.0, noise=1.0, blur=1.0, resolution=1.0
    )

    def draw(training: TrainingConfig) -> list[dict[str, Tensor]]:
        return list(training_loader(site, training, 3))

    plain, shifted, again = (
        draw(TRAINING),
        draw(replace(TRAINING, shifts=shifts)),
        draw(replace(TRAINING, shifts=shifts)),
    )
    for one, other, third in zip(plain, shifted, again, strict=True):
        air = one["image"] == 0
        assert air.any() and not other["image"][air].any()
        assert torch.equal(one["label"], other["label"]) and torch.equal(
            other["image"], third["image"]
        )
    assert not all(
        torch.equal(one["image"], other["image"]) for one, other in zip(plain, shifted, strict=True)
    )
    brighter = {
        "_target_": "monai.transforms.RandShiftIntensityd",
        "keys": "image",
        "prob": 1.0,
        "offsets": [0.2, 0.2],
    }
    moving = replace(data, augment=(brighter,))
    for batch in training_loader(prepare(dataset, moving), replace(TRAINING, shifts=shifts), 3):
        assert_close(
            batch["image"][batch["label"] == 0].unique(), torch.tensor([0.2])
        )  # air was air when the shifts came


@pytest.mark.parametrize("feature", ["fedfa", "mixstyle"])
def test_shifted_features_train_otherwise_and_are_reproducible(
    prepared: PreparedSite, feature: Any
) -> None:
    def train(seed: int, chance: float) -> tuple[nn.Module, dict[str, Tensor]]:
        shifted = replace(
            TRAINING, epochs=2, shifts=ShiftsConfig(feature=feature, feature_probability=chance)
        )
        network = small_network(dropout=0.3)
        training.fit(network, training_loader(prepared, shifted, seed), shifted, DATA)
        return network, network.state_dict()

    plain = small_network(dropout=0.3)
    training.fit(plain, training_loader(prepared, TRAINING, 3), replace(TRAINING, epochs=2), DATA)
    network, first = train(3, 1.0)
    second, other, never = train(3, 1.0)[1], train(4, 1.0)[1], train(3, 0.0)[1]
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
    assert not all(torch.equal(first[key], never[key]) for key in first)
    assert all(
        torch.equal(plain.state_dict()[key], never[key]) for key in never
    )  # dropout does not notice
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in network.modules())


def test_the_proximal_term_is_the_papers(prepared: PreparedSite) -> None:
    """One step of SGD from w_received has no proximal gradient; two have mu (w_1 - w_received)."""
    mu, rate = 0.7, 0.1
    plain = replace(TRAINING, epochs=1, optimizer={"_target_": "torch.optim.SGD", "lr": rate})

    def train(weight: float) -> Tensor:
        network = small_network()
        loader = training_loader(prepared, plain, 0)
        assert len(loader) == 2
        stepper = Stepper(network, plain, proximal_mu=weight)
        training.fit(network, loader, plain, DATA, stepper=stepper)
        return torch.cat([each.detach().flatten() for each in network.parameters()])

    network = small_network()
    received = torch.cat([each.detach().flatten() for each in network.parameters()])
    batch = next(iter(training_loader(prepared, plain, 0)))
    loss = training.instantiate(plain.loss)(network(batch["image"]), batch["label"])
    gradient = torch.cat(
        [each.flatten() for each in torch.autograd.grad(loss, list(network.parameters()))]
    )
    first = received - rate * gradient
    torch.testing.assert_close(train(mu), train(0.0) - rate * mu * (first - received))


def test_a_strong_proximal_term_keeps_the_weights(prepared: PreparedSite) -> None:
    moved = []
    slow = replace(TRAINING, optimizer={"_target_": "torch.optim.SGD", "lr": 0.05})
    for mu in (0.0, 10.0):
        network = small_network()
        before = [each.detach().clone() for each in network.parameters()]
        stepper = Stepper(network, slow, proximal_mu=mu)
        loader = training_loader(prepared, slow, 0)
        training.fit(network, loader, slow, DATA, stepper=stepper)
        moved.append(
            sum(
                float((a.detach() - b).square().sum())
                for a, b in zip(network.parameters(), before, strict=True)
            )
        )
    assert moved[1] < moved[0] / 2


@pytest.mark.parametrize("rate", [3e38, float("inf")])
def test_divergence_is_said(prepared: PreparedSite, rate: float) -> None:
    wild = replace(TRAINING, optimizer={"_target_": "torch.optim.SGD", "lr": rate})
    with pytest.raises(ConfigError, match=r"lower training\.learning_rate"):
        training.fit(small_network(), training_loader(prepared, wild, 0), wild, DATA)


def test_networks_keep_their_mode(prepared: PreparedSite) -> None:
    network = small_network().eval()
    training.fit(network, training_loader(prepared, TRAINING, 0), TRAINING, DATA)
    assert not network.training
    network.train()
    training.evaluate(network, prepared.validation, DATA)
    assert network.training


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL", "IRP"])
@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (1.0, 1.3, 3.0)])
@pytest.mark.parametrize("patch", [(16, 16, 16), (32, 16)])
def test_predictions_lie_on_the_inputs_grid(
    tmp_path: Path, codes: str, spacing_mm: tuple[float, float, float], patch: tuple[int, ...]
) -> None:
    shape = (24, 26, 28)
    write_case(tmp_path, "a", codes, spacing_mm, shape)
    labels, header = predict_label_map(
        Threshold(), tmp_path / "a.nii.gz", replace(DATA, patch=patch)
    )
    assert labels.dtype == np.uint8 and labels.shape == shape
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(header.affine, image.affine)
    truth = read_label(tmp_path / "a_label.nii.gz", 3).numpy()[0]
    expected = 1.0 if spacing_mm == (2.0, 2.0, 2.0) else 0.85  # the network sees 2 mm voxels
    for number in (1, 2):
        overlap = (
            2
            * ((labels == number) & (truth == number)).sum()
            / ((labels == number).sum() + (truth == number).sum())
        )
        assert overlap >= expected - 1e-9
    write_label_map(tmp_path / "out.nii.gz", labels, header)
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii.gz").affine, image.affine)


def test_an_oblique_image_is_predicted_on_its_own_grid(tmp_path: Path) -> None:
    angle, shape = np.deg2rad(25), (20, 22, 18)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ affine_of("LAS", (2.0, 2.0, 2.0), shape)
    label = ball(affine, shape, (0, 0, 0))
    nib.save(nib.Nifti1Image((label * 50).astype(np.int16), affine), tmp_path / "a.nii.gz")
    labels, header = predict_label_map(Threshold(), tmp_path / "a.nii.gz", DATA)
    np.testing.assert_array_equal(labels, label)
    np.testing.assert_allclose(header.affine, affine, atol=1e-5)


def test_a_mirrored_input_gives_a_mirrored_answer(tmp_path: Path) -> None:
    shape = (18, 20, 16)
    write_case(tmp_path, "a", "RAS", (1.5, 2.0, 2.5), shape)
    image = nib.load(tmp_path / "a.nii.gz")
    nib.save(image.as_reoriented(np.array([[0, -1], [1, 1], [2, 1]])), tmp_path / "b.nii.gz")
    first, second = (
        predict_label_map(Threshold(), tmp_path / f"{n}.nii.gz", DATA)[0] for n in "ab"
    )
    np.testing.assert_array_equal(first, second[::-1])


def test_several_files_are_channels(tmp_path: Path) -> None:
    write_case(tmp_path, "a")

    class First(Threshold):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image[:, :1])

    paths = [tmp_path / "a.nii.gz", tmp_path / "a.nii.gz"]
    labels, _ = predict_label_map(First(), paths, replace(DATA, channels=2))
    np.testing.assert_array_equal(labels, read_label(tmp_path / "a_label.nii.gz").numpy()[0])
    with pytest.raises(ImageInvalid):
        predict_label_map(First(), paths[0], replace(DATA, channels=2))


def test_slices_of_volumes_are_learned(dataset: SiteDataset) -> None:
    data = replace(DATA, patch=(16, 16), samples_per_case=4)
    site = prepare(dataset, data)
    network = small_network(dims=2)
    training.fit(network, training_loader(site, LONG, 0), LONG, data)
    assert training.evaluate(network, site.validation, data).score > 0.9
    seen: list[Any] = []
    tested, _ = evaluate_natively(
        network,
        dataset,
        data,
        on_case=lambda case, labels, _: seen.append((case.name, labels.shape)),
    )
    assert tested.score > 0.9 and seen == [("d", (18, 20, 16))]


def test_a_two_dimensional_segmentation_keeps_the_files_shape(tmp_path: Path) -> None:
    label = ball(np.diag([2.0, 2, 2, 1]), (20, 18, 1), (18, 16, 0))[:, :, 0]
    nib.save(
        nib.Nifti1Image((label * 50).astype(np.int16), np.diag([2.0, 2, 2, 1])),
        tmp_path / "a.nii.gz",
    )
    Image.fromarray((label * 50).T.copy()).save(tmp_path / "a.png")
    data = replace(DATA, patch=(16, 16))
    for name, setting in (("a.nii.gz", data), ("a.png", replace(data, spacing_mm=(1.0, 1.0, 1.0)))):
        labels, header = predict_label_map(Threshold(), tmp_path / name, setting)
        np.testing.assert_array_equal(labels, label)
        write_label_map(tmp_path / "out.nii.gz", labels, header)
        assert nib.load(tmp_path / "out.nii.gz").shape == (20, 18)


@pytest.mark.parametrize("dims", [2, 3])
def test_classification(tmp_path: Path, dims: int) -> None:
    def write(number: int) -> dict[str, Any]:
        random, bright = np.random.default_rng(number), number % 2
        voxels = random.normal(size=(14, 12, 10) if dims == 3 else (14, 12)) + 3 * bright
        nib.save(
            nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)), tmp_path / f"{number}.nii.gz"
        )
        return {"image": f"{number}.nii.gz", "label": bright}

    entries = [write(number) for number in range(12)]
    dataset = describe(
        tmp_path,
        ("dark", "bright"),
        training=entries[:8],
        validation=entries[8:10],
        test=entries[10:],
    )
    patch, spacing = ((8, 16, 8), (1.0, 1.0, 1.0)) if dims == 3 else ((8, 8), None)
    data = replace(
        DATA,
        task="classification",
        labels=("dark", "bright"),
        patch=patch,
        spacing_mm=spacing,
        samples_per_case=1,
        augment=(),
        intensity=(),
    )
    torch.manual_seed(0)
    pool: Any = nn.AdaptiveAvgPool3d if dims == 3 else nn.AdaptiveAvgPool2d
    network = nn.Sequential(pool(1), nn.Flatten(), nn.Linear(1, 2))
    site = prepare(dataset, data)
    fast = replace(CLASSIFYING, epochs=60)
    result = training.fit(network, training_loader(site, fast, 0), fast, data)
    evaluation = training.evaluate(network, site.validation, data, fast)
    assert result.num_examples == 8 and evaluation.num_examples == 2
    assert evaluation.scores == {"dark": 1.0, "bright": 1.0} and evaluation.score == 1.0
    assert evaluation.loss is not None and evaluation.loss < 0.5
    tested, cases = evaluate_natively(network, dataset, data)
    assert tested.score == 1.0 and [case.score for case in cases] == [1.0, 1.0]
    probabilities = predict_values(network, tmp_path / "11.nii.gz", data)
    assert (
        probabilities.shape == (2,)
        and float(probabilities.sum()) == pytest.approx(1)
        and probabilities[1] > 0.5
    )
    assert cases[1].scores["bright"] == pytest.approx(float(probabilities[1]))


def test_the_validation_stands_in_for_a_missing_test(dataset: SiteDataset) -> None:
    evaluation, cases = evaluate_natively(Threshold(), replace(dataset, test=()), DATA)
    assert [case.split for case in cases] == ["validation"] and evaluation.score == 1.0
