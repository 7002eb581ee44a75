"""`polyclinic-server export`: a copy of polyclinic's own file, or an encoder for torch alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.jobs import job_settings
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.learning.site_tasks import SiteTask
from polyclinic.learning.state_dict import save_state
from polyclinic_server.cli.main import app
from polyclinic_server.runs.export import export_model
from polyclinic_strategies.universal.networks.network import UniversalNetwork

OPTIONS = {
    "universal": ["model.encoder.widths=[8,8,16,16]", "data.patch=[32,32]"],
    "universal_vit": [
        "model.encoder.width=16",
        "model.encoder.layers=2",
        "model.encoder.heads=2",
        "data.patch=[32,32]",
    ],
}
ALONE = """
import sys, torch
encoder = torch.export.load({program!r}).module()
for images in torch.load({images!r}):
    torch.save(encoder(images), {out!r} + str(len(images)))
others = ("polyclinic", "polyclinic_strategies", "polyclinic_server", "monai", "flwr")
found = [name for name in sys.modules if name.split(".")[0] in others]
assert not found, found
"""


def write_model(path: Path, *overrides: str) -> torch.nn.Module:
    config = load_config(overrides)
    names, settings = job_settings(config)
    torch.manual_seed(0)
    network = instantiate(config.model)
    save_state(
        network.state_dict(),
        path,
        {"polyclinic": json.dumps({"names": names, "settings": settings})},
    )
    return network.eval()  # type: ignore[no-any-return]


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
@pytest.mark.parametrize("model", sorted(OPTIONS))
def test_an_encoder_runs_with_torch_alone_on_batches_of_any_size(
    model: str, tmp_path: Path
) -> None:
    source, program = tmp_path / "model.safetensors", tmp_path / "encoder.pt2"
    network = write_model(
        source, f"model={model}", "data=universal", "training=universal", *OPTIONS[model]
    )
    example = export_model(source, program)
    assert example[0] == 'encoder = torch.export.load("encoder.pt2").module()'
    assert "(batch, 3, 32, 32)" in example[1]
    batches = [torch.rand(count, 3, 32, 32) for count in (1, 5)]
    torch.save(batches, tmp_path / "images.pt")
    code = ALONE.format(
        program=str(program), images=str(tmp_path / "images.pt"), out=str(tmp_path / "maps")
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    for images in batches:
        with torch.inference_mode():
            wanted = network.encoder(images)  # type: ignore[operator]
        for found, each in zip(torch.load(tmp_path / f"maps{len(images)}"), wanted, strict=True):
            torch.testing.assert_close(found, each)
    written = {"model.safetensors", "encoder.pt2", "images.pt", "maps1", "maps5"}
    assert {path.name for path in tmp_path.iterdir()} == written


def test_of_a_model_with_a_head_the_encoder_alone_is_written(tmp_path: Path) -> None:
    config = load_config(
        ["model=universal", "data=universal", "training=universal", *OPTIONS["universal"]]
    )
    names, settings = job_settings(config)
    network = instantiate(config.model)
    assert isinstance(network, UniversalNetwork)
    network.attach_head(SiteTask("classification", 2, 1, 2))
    task = {"kind": "classification", "classes": 2, "channels": 1, "dimensions": 2}
    described = {"names": names, "settings": settings, "task": task, "labels": ["a", "b"]}
    save_state(
        network.state_dict(), tmp_path / "model.safetensors", {"polyclinic": json.dumps(described)}
    )
    export_model(tmp_path / "model.safetensors", tmp_path / "encoder.pt2")
    names_inside = torch.export.load(tmp_path / "encoder.pt2").state_dict
    assert all(name.startswith("encoder.") for name in names_inside)


def test_what_has_no_encoder_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    write_model(tmp_path / "unet.safetensors", "model=unet_2d", "data=brain_tissue_slices")
    with pytest.raises(ConfigError, match=r"unet\.safetensors"):
        export_model(tmp_path / "unet.safetensors", tmp_path / "encoder.pt2")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ModelInvalid, match=r"bad\.safetensors"):
        export_model(tmp_path / "bad.safetensors", tmp_path / "copy.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"unet.safetensors", "bad.safetensors"}


def test_the_command_takes_a_file_and_wants_one_source(tmp_path: Path) -> None:
    source, copy = tmp_path / "unet.safetensors", tmp_path / "copy.safetensors"
    write_model(source, "model=unet_2d", "data=brain_tissue_slices")
    done = CliRunner().invoke(
        app, ["export", "--from", str(source), "--to", str(copy)], catch_exceptions=False
    )
    assert done.exit_code == 0 and copy.read_bytes() == source.read_bytes()
    both = CliRunner().invoke(app, ["export", "latest", "--from", str(source), "--to", str(copy)])
    assert isinstance(both.exception, ConfigError)
    assert isinstance(CliRunner().invoke(app, ["export", "--to", str(copy)]).exception, ConfigError)


@pytest.mark.parametrize("name", ["spleen.bundle", "bundle"])
def test_a_bundle_is_a_folder(name: str, tmp_path: Path) -> None:
    source = tmp_path / "unet.safetensors"
    write_model(source, "model=unet", "data=segmentation")
    told = ["export", "--from", str(source), "--to", str(tmp_path / name)]
    done = CliRunner().invoke(app, told, catch_exceptions=False)
    assert done.exit_code == 0 and "README.md" in done.output
    assert {path.name for path in (tmp_path / name).iterdir()} == {"configs", "models", "docs"}
    assert isinstance(CliRunner().invoke(app, told).exception, ConfigError)
