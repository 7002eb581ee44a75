"""Bundles as typed values; what polyclinic does not do is refused, with its place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyclinic.config.bundles.read import read_bundle
from polyclinic.errors import BundleInvalid
from tests.monai_bundles import UNET, lung, spleen, write_bundle

Change = Callable[[dict[str, Any], dict[str, Any]], object]  # of metadata and inference


def test_a_segmentation_of_the_zoos_kind(tmp_path: Path) -> None:
    found = read_bundle(write_bundle(tmp_path / "spleen", spleen()))
    assert found.kind == "segmentation" and found.network.name == "UNet"
    assert found.network.arguments == {k: v for k, v in UNET.items() if k != "_target_"}
    assert found.metadata.labels == ("background", "spleen") and found.metadata.channels == 1
    assert (found.orientation, found.spacing_mm) == ("LPS", (2.0, 2.0, 3.0))
    assert (found.patch, found.overlap) == ((16, 16, 8), 0.5)
    (step,) = found.intensity
    assert step["transform"] == "ScaleIntensityRange" and step["a_min"] == -57
    assert found.weights == tmp_path / "spleen" / "models" / "model.pt"


def test_a_classification_in_yaml(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "lung", lung(), weights=False)
    path = folder / "configs" / "inference.json"
    path.unlink()
    path.with_suffix(".yaml").write_text(yaml.safe_dump(lung()[1]))
    found = read_bundle(folder)
    assert found.kind == "classification" and found.network.name == "DenseNet"
    assert (found.spacing_mm, found.patch, found.weights) == (None, (16, 16, 16), None)


def test_the_network_may_stand_in_the_training_alone(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "spleen", spleen())
    parts = spleen()[1]
    network = parts.pop("network_def")
    (folder / "configs" / "inference.json").write_text(yaml.safe_dump(parts))  # no JSON
    with pytest.raises(BundleInvalid, match=r"inference\.json"):
        read_bundle(folder)
    (folder / "configs" / "inference.json").rename(folder / "configs" / "inference.yml")
    with pytest.raises(BundleInvalid, match="no network_def"):
        read_bundle(folder)
    (folder / "configs" / "train.yaml").write_text(yaml.safe_dump({"network_def": network}))
    assert read_bundle(folder).network.name == "UNet"


def steps(inference: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = inference["preprocessing"]["transforms"]
    return found


def swap(inference: dict[str, Any]) -> None:
    listed = steps(inference)
    listed[2], listed[3] = listed[3], listed[2]


REFUSED: dict[str, Change] = {
    "'scripts.net.Net'": lambda m, i: i["network_def"].update(_target_="scripts.net.Net"),
    "'os.system'": lambda m, i: i["network_def"].update(_target_="os.system"),
    "'torch.nn.Linear' is none": lambda m, i: i["network_def"].update(_target_="torch.nn.Linear"),
    "'AutoEncoder' is none": lambda m, i: i["network_def"].update(_target_="AutoEncoder"),
    r"network_def#in_channels: '\$1 \+ 1' is a Python": lambda m, i: i["network_def"].update(
        in_channels="$1 + 1"
    ),
    r"evaluator#_target_: 'mine\.Evaluator'": lambda m, i: i["evaluator"].update(
        _target_="mine.Evaluator"
    ),
    "imports#0: '.import scripts'": lambda m, i: i.update(imports=["$import scripts"]),
    "imports#0: '.from scripts": lambda m, i: i.update(imports=["$from scripts import x"]),
    "pretrained": lambda m, i: i["network_def"].update(pretrained=True),
    "deep_supervision": lambda m, i: i["network_def"].update(deep_supervision=True),
    "refers to another file": lambda m, i: i.update(network_def="%other.json::network_def"),
    "'@nothing' leads nowhere": lambda m, i: i["network_def"].update(norm="@nothing"),
    "in a circle": lambda m, i: i.update(network_def="@network", network="@network_def"),
    "'RandFlipd' is none": lambda m, i: steps(i).append({"_target_": "RandFlipd"}),
    "'Lambdad' is none": lambda m, i: steps(i).append({"_target_": "Lambdad", "func": "x"}),
    r"transforms#4#dtype: ScaleIntensityRanged": lambda m, i: steps(i)[4].update(dtype="x"),
    "Put Orientationd in front": lambda m, i: swap(i),
    "onto their grid first": lambda m, i: steps(i).append(steps(i)[3]),
    "'QQS' names no axes": lambda m, i: steps(i)[2].update(axcodes="QQS"),
    "pixdim: '-1'": lambda m, i: steps(i)[3].update(pixdim=-1),
    "'SaliencyInferer' is no way": lambda m, i: i["inferer"].update(_target_="SaliencyInferer"),
    "may overlap": lambda m, i: i["postprocessing"]["transforms"][0].update(sigmoid=True),
    "'KeepLargestConnectedComponentd'": lambda m, i: i["postprocessing"]["transforms"].append(
        {"_target_": "KeepLargestConnectedComponentd"}
    ),
    "has no preprocessing": lambda m, i: i.pop("preprocessing"),
    "has no network_data_format": lambda m, i: m.clear(),
    "channel_def": lambda m, i: m["network_data_format"]["outputs"]["pred"].clear(),
    "not 0 to 1": lambda m, i: m["network_data_format"]["outputs"]["pred"].update(
        channel_def={"1": "a", "2": "b"}
    ),
    "num_channels": lambda m, i: m["network_data_format"]["inputs"]["image"].update(
        num_channels="many"
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_not_done_is_refused_with_its_place(said: str, tmp_path: Path) -> None:
    metadata, inference = spleen()
    inference["network_def"] = dict(inference["network_def"])
    REFUSED[said](metadata, inference)
    folder = write_bundle(tmp_path / "spleen", (metadata, inference), weights=False)
    with pytest.raises(BundleInvalid, match=said) as caught:
        read_bundle(folder)
    assert "configs" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["scripts/net.py", "models/model.ts", "models/a.pkl", "x.so"])
def test_programs_are_refused_by_name(name: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "spleen", spleen())
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    with pytest.raises(BundleInvalid, match=name):
        read_bundle(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{" * 9, '{"a": ' * 100_000, '{"a": NaN, "network_def": 3}', " " * (2**20 + 1)],
)
def test_damaged_configuration_is_refused(text: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "spleen", spleen())
    (folder / "configs" / "inference.json").write_text(text)
    with pytest.raises(BundleInvalid, match=r"inference\.json"):
        read_bundle(folder)


def test_aliases_of_yaml_cannot_grow_without_bound(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "spleen", spleen())
    (folder / "configs" / "inference.json").unlink()
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (folder / "configs" / "inference.yaml").write_text("\n".join(lines))
    with pytest.raises(BundleInvalid, match="values"):
        read_bundle(folder)


def test_another_folder_is_no_bundle(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(BundleInvalid, match="configs/"):
            read_bundle(folder)
