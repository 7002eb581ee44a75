"""`polyclinic-server pretrain`: an encoder from images without labels, a report, interruptions."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError
from polyclinic.federation.jobs import start_network
from polyclinic.learning.model_file import load_model
from polyclinic.learning.state_dict import load_state, save_state
from polyclinic_server.cli.main import app
from polyclinic_strategies.universal import masked_pretraining
from polyclinic_strategies.universal.masked_pretraining import (
    Orders,
    Pretrained,
    pretrain_encoder,
    split_files,
)
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.report.masked_report import draw_losses, render, tell_result
from tests.task_cohort import write_public

SMALL = ("model.encoder.widths=[8,8,16,16]", "data.patch=[32,32]", "training.batch_size=4")


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_public(tmp_path_factory.mktemp("coordinator") / "public", 16)


def pretrain(public: Path, out: Path, *overrides: str, steps: int = 4) -> tuple[Pretrained, str]:
    told = StringIO()
    console = Console(file=told, width=200)
    return pretrain_encoder(
        Orders((public,), out, out / "encoder.safetensors", (*SMALL, *overrides), steps), console
    ), told.getvalue()


def test_the_command_ends_with_an_encoder_that_a_run_starts_from_and_a_report(
    public: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app,
        ["pretrain", "--data", str(public), *SMALL, "--steps", "4", "--out", str(out)],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {"encoder.safetensors", "report.html", "work"}
    state, metadata = load_state(out / "encoder.safetensors")
    assert all(name.startswith("encoder.") for name in state)
    assert json.loads(metadata["polyclinic"])["pretraining"]["images"] == 8
    config = load_config(
        [
            "model=universal",
            "data=universal",
            "training=universal",
            *SMALL,
            f"base={out / 'encoder.safetensors'}",
        ]
    )
    started = start_network(config).state_dict()
    assert all(torch.equal(started[name], tensor) for name, tensor in state.items())
    network, job = load_model(out / "encoder.safetensors")
    assert isinstance(network, UniversalNetwork) and job.data.task == "own"
    page = (out / "report.html").read_text()
    assert (
        page.count('alt="painted"') == 8
        and "Loss on the images" in page
        and "http" not in page.replace("http-equiv", "")
    )


def test_a_file_may_be_named_instead_of_a_folder(public: Path, tmp_path: Path) -> None:
    arguments = [
        "pretrain",
        "--data",
        str(public),
        *SMALL,
        "--steps",
        "1",
        "--out",
        str(tmp_path / "mim.safetensors"),
    ]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert (tmp_path / "mim.safetensors").is_file() and (tmp_path / "mim" / "report.html").is_file()


def test_an_interrupted_training_ends_with_the_same_bytes(
    public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyclinic_strategies.universal.pretraining.KEEP_EVERY", 1)
    whole, _ = pretrain(public, tmp_path / "whole")
    real = masked_pretraining.pretrain

    def dying(*arguments: Any, on_step: Any, **options: Any) -> list[float]:
        def die(step: int, steps: int, loss: float) -> None:
            on_step(step, steps, loss)
            if step == 2:
                raise KeyboardInterrupt

        return real(*arguments, on_step=die, **options)

    monkeypatch.setattr(masked_pretraining, "pretrain", dying)
    with pytest.raises(KeyboardInterrupt):
        pretrain(public, tmp_path / "broken")
    assert not (tmp_path / "broken" / "encoder.safetensors").exists()
    monkeypatch.setattr(masked_pretraining, "pretrain", real)
    again, told = pretrain(public, tmp_path / "broken")
    assert "going on after step 2" in told and again.losses == whole.losses
    assert (tmp_path / "broken" / "encoder.safetensors").read_bytes() == (
        tmp_path / "whole" / "encoder.safetensors"
    ).read_bytes()


def test_what_is_done_is_not_done_again_and_other_settings_or_images_begin_anew(
    public: Path, tmp_path: Path
) -> None:
    first, _ = pretrain(public, tmp_path / "out")
    second, told = pretrain(public, tmp_path / "out")
    assert (
        "trained before" in told and second.losses == first.losses and second.missed == first.missed
    )
    _, told = pretrain(public, tmp_path / "out", "training.universal.mask_ratio=0.5")
    assert "had other settings: beginning anew" in told
    more = write_public(tmp_path / "more", 17)
    third, told = pretrain(more, tmp_path / "out", "training.universal.mask_ratio=0.5")
    assert "had other images: beginning anew" in told and len(third.losses) == 4


def test_base_is_where_it_starts_and_another_network_is_refused(
    public: Path, tmp_path: Path
) -> None:
    first, _ = pretrain(public, tmp_path / "first", steps=1)
    second, _ = pretrain(public, tmp_path / "second", f"base={first.weights}", steps=1)
    assert second.base == "encoder.safetensors" and second.losses != first.losses
    save_state({"encoder.stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors", {})
    with pytest.raises(ConfigError, match="another network"):
        pretrain(public, tmp_path / "third", f"base={tmp_path / 'other.safetensors'}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.universal.mask_size=7"], "must divide"),
        (["model=unet", "model.out_channels=2"], "model=universal"),
    ],
)
def test_wrong_settings_are_refused_before_an_image_is_read(
    overrides: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        pretrain_encoder(
            Orders(
                (tmp_path,),
                tmp_path,
                tmp_path / "e.safetensors",
                ("data.patch=[32,32]", *overrides),
            ),
            Console(quiet=True),
        )


def test_an_empty_folder_and_a_single_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="no image there"):
        pretrain(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ConfigError, match="at least two"):
        pretrain(write_public(tmp_path / "one", 1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_held_back_by_lot_and_never_more_than_half() -> None:
    paths = [Path(f"{number}.png") for number in range(40)]
    training, held = split_files(paths, 0)
    assert len(held) == 8 and set(training) | set(held) == set(paths) and len(training) == 32
    assert split_files(paths, 0) == (training, held) and split_files(paths, 1) != (training, held)
    assert [len(part) for part in split_files(paths[:5], 0)] == [3, 2]


def test_the_report_says_when_nothing_was_learned(public: Path, tmp_path: Path) -> None:
    found, _ = pretrain(public, tmp_path / "out", steps=1)
    assert found.missed_by_mean > 0
    assert "%" not in tell_result(found) and 'class="banner failed"' in render("out", found)


def test_of_many_steps_the_curve_shows_means() -> None:
    plot = draw_losses([1.0, 3.0] * 240)
    assert "a mean over 2 steps" in plot.note
    assert len({point.split(",")[1] for point in plot.lines[0].path.split()}) == 1
