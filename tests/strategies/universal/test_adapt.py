"""`polyclinic-client adapt`: a universal encoder for a hospital's own task, of both kinds."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.jobs import job_settings
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning.model_file import load_model
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.state_dict import load_state, save_state
from polyclinic_client.cli.main import app
from polyclinic_client.site.predict import predict_files
from polyclinic_strategies.universal import adapt as adapting
from polyclinic_strategies.universal.adapt import (
    Wishes,
    adapt,
    load_encoder,
    make_table,
    tell_choice,
)
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.teaching.library import write_library
from polyclinic_strategies.universal.teaching.teachers import Teacher
from tests.task_cohort import SECRETS, write_tasks

UNIVERSAL = [
    "model=universal",
    "data=universal",
    "training=universal",
    "model.encoder.widths=[8,8,16,16]",
    "data.patch=[32,32]",
]
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.name: path for path in write_tasks(tmp_path_factory.mktemp("tasks"))}


def write_model(path: Path, *overrides: str) -> Path:
    config = load_config(overrides)
    names, settings = job_settings(config)
    torch.manual_seed(0)
    save_state(
        instantiate(config.model).state_dict(),
        path,
        {"polyclinic": json.dumps({"names": names, "settings": settings})},
    )
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("encoder") / "encoder.safetensors", *UNIVERSAL)


@pytest.fixture(scope="module")
def library(encoder: Path) -> Path:
    """Three encoders, of which the universal one sees next to nothing."""
    state, metadata = load_state(encoder)
    blind = {name: tensor * (0 if "stem" in name else 1) for name, tensor in state.items()}
    crowd = [
        Teacher(f"site-{number}", {n: t * (1 + number / 100) for n, t in state.items()}, {}, 9, "x")
        for number in (1, 2)
    ]
    path = encoder.with_name("library.safetensors")
    assert write_library(path, metadata["polyclinic"], blind, state, crowd) == 2
    return path


def test_the_best_encoder_of_a_library_is_kept_and_adapted(
    sites: dict[str, Path], library: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    adapted = adapt(library, sites["discs"], out, Wishes("probe"), QUIET, library=True)
    assert list(adapted.encoders) == ["universal", "teacher-1", "teacher-2"]
    assert adapted.encoder.startswith("teacher-")
    assert adapted.encoders[adapted.encoder] == adapted.tried["probe"] == adapted.validation.score
    assert adapted.encoders[adapted.encoder] > adapted.encoders["universal"]
    network, job = load_model(out)
    kept, whole = network.state_dict(), load_state(library)[0]
    shelf = {name: whole[f"{adapted.encoder}/{name}"] for name in kept if "encoder." in name}
    assert shelf and all(torch.equal(kept[name], tensor) for name, tensor in shelf.items())
    assert json.loads(load_state(out)[1]["polyclinic"])["encoder"] == adapted.encoder
    assert job.data.labels == tuple(SECRETS["discs"])
    again, _ = evaluate_natively(network, read_dataset(sites["discs"]), job.data)
    assert again.score == adapted.test.score


@pytest.mark.parametrize("mode", ["probe", "full"])
def test_the_command_tries_every_encoder_and_says_which_it_kept(
    sites: dict[str, Path], library: Path, tmp_path: Path, mode: str
) -> None:
    out = tmp_path / "m.safetensors"
    options = ["--from", library, "--data", sites["blobs"], "--out", out, "--mode", mode]
    arguments = ["adapt", *map(str, options), "--epochs", "1"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and out.is_file()
    for said in ("universal: ", "teacher-1 (x): ", "teacher-2 (x): ", "encoder: ", "kept: "):
        assert said in done.output


@pytest.mark.parametrize("options", [[], ["--model", "a", "--from", "b"]])
def test_the_command_wants_one_of_encoder_and_library(
    sites: dict[str, Path], tmp_path: Path, options: list[str]
) -> None:
    rest = ["--data", str(sites["discs"]), "--out", str(tmp_path / "m.safetensors")]
    done = CliRunner().invoke(app, ["adapt", *options, *rest])
    assert isinstance(done.exception, ConfigError) and "--from" in str(done.exception)


def test_a_library_is_no_encoder_and_an_encoder_no_library(
    sites: dict[str, Path], encoder: Path, library: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.safetensors"
    with pytest.raises(ConfigError, match="Give it with --from"):
        adapt(library, sites["discs"], out, Wishes("probe"), QUIET)
    with pytest.raises(ConfigError, match="no library"):
        adapt(encoder, sites["discs"], out, Wishes("probe"), QUIET, library=True)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_probe_leaves_the_encoder_as_it_is_and_predict_takes_the_model(
    name: str, sites: dict[str, Path], encoder: Path, tmp_path: Path
) -> None:  # fmt: skip
    out = tmp_path / "model.safetensors"
    adapted = adapt(encoder, sites[name], out, Wishes("probe"), QUIET)
    assert adapted.kept == "probe" and set(adapted.tried) == {"probe"} and adapted.tested == "test"
    network, job = load_model(out)
    before = load_state(encoder)[0]
    assert all(torch.equal(network.state_dict()[key], tensor) for key, tensor in before.items())
    assert job.data.labels == tuple(SECRETS[name])
    again, _ = evaluate_natively(network, read_dataset(sites[name]), job.data)
    assert again.score == adapted.test.score
    predict_files(out, [sites[name] / "test-0.png"], tmp_path / "labels", QUIET)
    written = {path.name for path in (tmp_path / "labels").glob("[!.]*")}
    assert written == ({"test-0.nii.gz"} if name == "blobs" else {"predictions.csv"})


@pytest.mark.parametrize("name", ["discs", "blobs"])
def test_the_better_of_probe_and_full_is_kept(
    name: str, sites: dict[str, Path], encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    adapted = adapt(encoder, sites[name], out, Wishes("full", 3, 0.003), QUIET)
    assert adapted.tried[adapted.kept] == max(adapted.tried.values()) == adapted.validation.score
    assert json.loads(load_state(out)[1]["polyclinic"])["adapted"] == adapted.kept
    changed = any(
        not torch.equal(load_state(out)[0][key], tensor)
        for key, tensor in load_state(encoder)[0].items()
    )
    assert changed == (adapted.kept == "full")
    first = out.read_bytes()
    adapt(encoder, sites[name], out, Wishes("full", 3, 0.003), QUIET)
    assert out.read_bytes() == first


def test_training_that_makes_it_worse_is_not_kept(
    sites: dict[str, Path], encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def spoil(network: UniversalNetwork, *_arguments: object, **_options: object) -> float:
        with torch.no_grad():
            network.head.linear.bias.copy_(torch.tensor([-1000.0, 1000.0]))  # type: ignore[union-attr]
        return 0.0

    monkeypatch.setattr(adapting, "fit_passes", spoil)
    adapted = adapt(encoder, sites["blobs"], tmp_path / "model.safetensors", Wishes("full"), QUIET)
    assert adapted.kept == "probe" and adapted.tried["full"] < adapted.tried["probe"]
    assert "no better" in tell_choice(adapted)


def test_the_command_shows_every_class_and_which_was_kept(
    sites: dict[str, Path], encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.safetensors"
    arguments = [
        "adapt",
        "--model",
        str(encoder),
        "--data",
        str(sites["stripes"]),
        "--out",
        str(out),
        "--mode",
        "full",
        "--epochs",
        "1",
    ]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and out.is_file()
    assert all(
        name in done.output
        for name in (
            *SECRETS["stripes"],
            "validation",
            "test",
            "mean",
            "kept: ",
            "probe: ",
            "full: ",
        )
    )


def test_where_the_test_has_no_labels_the_table_says_so(
    sites: dict[str, Path], encoder: Path, tmp_path: Path
) -> None:
    described = json.loads((sites["discs"] / "dataset.json").read_text())
    described["test"] = [case["image"] for case in described["test"]]
    folder = tmp_path / "discs"
    folder.mkdir()
    for path in sites["discs"].glob("*.png"):
        (folder / path.name).hardlink_to(path)
    (folder / "dataset.json").write_text(json.dumps(described))
    adapted = adapt(encoder, folder, tmp_path / "model.safetensors", Wishes("probe"), QUIET)
    assert (
        adapted.tested == "validation"
        and make_table(adapted).columns[2].header == "validation, own grids"
    )


def test_what_is_no_universal_encoder_is_refused(
    sites: dict[str, Path], encoder: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "unet.safetensors", "model=unet_2d", "data=brain_tissue_slices")
    with pytest.raises(ConfigError, match="no universal encoder, it is a model for one task"):
        load_encoder(other)
    adapt(encoder, sites["discs"], tmp_path / "discs.safetensors", Wishes("probe"), QUIET)
    with pytest.raises(ConfigError, match="has the head of a task already"):
        load_encoder(tmp_path / "discs.safetensors")
    save_state({"a": torch.zeros(1)}, tmp_path / "strange.safetensors", {})
    with pytest.raises(ModelInvalid, match="no polyclinic metadata"):
        load_encoder(tmp_path / "strange.safetensors")


@pytest.mark.parametrize(
    ("wishes", "said"), [({"mode": "half"}, "probe or full"), ({"learning_rate": 0.0}, "above 0")]
)
def test_wrong_wishes_are_refused(wishes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Wishes(**wishes)  # type: ignore[arg-type]
