"""`model=bundle bundle=FOLDER`: what a bundle says travels as settings, and hospitals need none."""

from pathlib import Path

import pytest

from polyclinic.config.compose import load_config
from polyclinic.config.jobs import job_digests, job_settings, load_job
from polyclinic.config.schemas import JobConfig
from polyclinic.errors import BundleInvalid, ConfigError
from tests.monai_bundles import lung, spleen, write_bundle


@pytest.mark.parametrize("parts", [spleen(), lung()], ids=["spleen", "lung"])
def test_a_hospital_builds_the_same_job_without_the_bundle(
    parts: tuple[dict[str, object], dict[str, object]], tmp_path: Path
) -> None:
    folder = write_bundle(tmp_path / "b", parts)
    config = load_config(["model=bundle", f"bundle={folder}"])
    names, settings = job_settings(config)
    assert str(tmp_path) not in repr((names, settings))
    folder.rename(tmp_path / "away")
    rebuilt = load_job(names, settings)
    assert job_digests(rebuilt) == job_digests(
        JobConfig(config.model, config.data, config.training)
    )
    assert rebuilt.data.intensity == config.data.intensity


def test_what_is_given_has_precedence(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", spleen())
    config = load_config(
        [f"bundle={folder}", "data.patch=[8,8,8]", "base=null", "training=nnunet", "rounds=2"]
    )
    assert config.data.patch == (8, 8, 8) and config.base is None
    assert config.choices["training"] == "nnunet" and config.choices["model"] == "bundle"
    assert config.data.labels == ("background", "spleen")
    own = load_config([f"bundle={folder}", "data=segmentation", "data.labels=[background,spleen]"])
    assert own.data.patch == (96, 96, 96) and own.data.orientation == "RAS"


def test_weights_are_the_base_where_there_are_some(tmp_path: Path) -> None:
    with_weights = write_bundle(tmp_path / "a", spleen())
    assert load_config([f"bundle={with_weights}"]).base == str(with_weights / "models/model.pt")
    without = write_bundle(tmp_path / "b", spleen(), weights=False)
    assert load_config([f"bundle={without}"]).base is None


def test_what_the_bundle_does_not_say_is_asked_for(tmp_path: Path) -> None:
    metadata, inference = spleen()
    del inference["preprocessing"]["transforms"][3]
    inference["inferer"] = {"_target_": "SimpleInferer"}
    folder = write_bundle(tmp_path / "b", (metadata, inference))
    with pytest.raises(BundleInvalid, match=r"data\.patch=\[96,96,96\]"):
        load_config([f"bundle={folder}"])
    with pytest.raises(BundleInvalid, match=r"data\.spacing_mm="):
        load_config([f"bundle={folder}", "data.patch=[16,16,16]"])
    said = ["data.patch=[16,16,16]", "data.spacing_mm=[1.0,1.0,1.0]"]
    assert load_config([f"bundle={folder}", *said]).data.spacing_mm == (1.0, 1.0, 1.0)


def test_another_model_beside_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model=bundle"):
        load_config(["model=unet", f"bundle={tmp_path}"])


@pytest.mark.parametrize(
    "value", [[{"_target_": "os.system"}], [{"_target_": "monai.transforms.RandFlipd"}]]
)
def test_a_list_of_parts_travels_only_if_it_follows_from_settings(
    value: list[dict[str, str]], tmp_path: Path
) -> None:
    folder = write_bundle(tmp_path / "b", spleen())
    text = ",".join(f"{{_target_: {each['_target_']}}}" for each in value)
    config = load_config([f"bundle={folder}", f"data.intensity=[{text}]"])
    with pytest.raises(ConfigError, match=r"data\.intensity"):
        job_settings(config)
