from pathlib import Path
from shutil import copytree

import pytest

from polyclinic.config.compose import (
    CONF,
    GROUPS,
    as_yaml,
    expand_strategies,
    instantiate,
    list_names,
    load_config,
)
from polyclinic.config.jobs import job_digests, job_settings, load_job
from polyclinic.config.release import Release
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError, UnknownName

FLAT = ["model=unet_2d", "data=brain_tissue_slices"]
PARTNERS = {  # a 2-D part composes only with another 2-D part
    "model=unet_2d": ["data=brain_tissue_slices"],
    "model=densenet": ["data=classification", "training=classification"],
    "model=densenet_2d": ["data=classification_2d", "training=classification"],
    "data=brain_tissue_slices": ["model=unet_2d"],
    "data=segmentation_2d": ["model=unet_2d"],
    "data=planned_2d": ["model=dynunet", "training=nnunet"],
    "data=planned": ["model=dynunet", "training=nnunet"],
    "training=nnunet": ["data=planned", "model=dynunet"],
    "data=classification": ["model=densenet", "training=classification"],
    "data=classification_2d": ["model=densenet_2d", "training=classification"],
    "training=classification": ["model=densenet", "data=classification"],
    "data=regions": ["training=regions"],
    "data=regions_2d": ["model=unet_2d", "training=regions"],
    "training=regions": ["data=regions"],
    "data=multilabel": ["model=densenet", "training=multilabel"],
    "data=multilabel_2d": ["model=densenet_2d", "training=multilabel"],
    "training=multilabel": ["model=densenet", "data=multilabel"],
    "data=regression": ["model=densenet", "training=regression"],
    "data=regression_2d": ["model=densenet_2d", "training=regression"],
    "training=regression": ["model=densenet", "data=regression"],
    "model=efficientnet_lite0": ["data=white_blood_cells", "training=fine_tuning"],
    "data=white_blood_cells": ["model=efficientnet_lite0", "training=fine_tuning"],
    "training=fine_tuning": ["model=efficientnet_lite0", "data=white_blood_cells"],
    "model=universal": ["data=universal", "training=universal"],
    "model=universal_vit": ["data=universal", "training=universal"],
    "data=universal": ["model=universal", "training=universal"],
    "training=universal": ["model=universal", "data=universal"],
}
BUNDLE = [
    "model=bundle",
    "model.network=UNet",
    "model.arguments=['spatial_dims 3','in_channels 1','out_channels 2','channels.0 4',"
    "'channels.1 8','strides.0 2']",
]
PARTNERS |= {
    "model=bundle": BUNDLE[1:],
    "data=bundle_segmentation": BUNDLE,
    "data=bundle_segmentation_resized": BUNDLE,
    "data=bundle_classification": [*BUNDLE, "training=classification"],
    "data=bundle_classification_resized": [*BUNDLE, "training=classification"],
}
EVERY = [f"{group}={name}" for group in GROUPS for name in list_names(group)]


@pytest.mark.parametrize("choice", EVERY)
def test_every_file_of_conf_composes_and_its_parts_can_be_made(choice: str) -> None:
    config = load_config([choice, *PARTNERS.get(choice, [])])
    assert isinstance(config, Config)
    instantiate(config.model)
    instantiate(config.training.loss)
    assert instantiate(config.strategy, _recursive_=False).title
    for transform in config.data.intensity + config.data.augment:
        instantiate(transform)


@pytest.mark.parametrize("choice", EVERY)
def test_every_file_of_conf_opens_with_the_command_that_uses_it(choice: str) -> None:
    group, _, name = choice.partition("=")
    head = (CONF / group / f"{name}.yaml").read_text().splitlines()[:2]
    assert any(name in line or line.startswith("# make ") for line in head)


def test_a_federation_of_own_tasks_names_no_classes() -> None:
    with pytest.raises(ConfigError, match=r"data\.labels=\['a', 'b'\]"):
        load_config(
            ["data=universal", "model=universal", "training=universal", "data.labels=[a,b]"]
        )


def test_the_example_of_the_readme_composes() -> None:
    config = load_config(["strategy=averaging/fedprox", "model=unet", "training.epochs=2"])
    assert config.strategy["title"] == "FedProx"
    assert config.training.epochs == 2


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"Did you mean averaging/fedavg\?.*averaging/krum"):
        load_config(["strategy=averaging/fedav"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainig.epochs=2", "no setting 'trainig'"),
        ("training.epoch=2", "no setting 'training.epoch'"),
        ("training.epochs=0", "training.epochs=0"),
        ("training.epochs=many", "training.epochs='many'"),
        ("training.learning_rate=.nan", "training.learning_rate"),
        ("deployment.port=70000", "deployment.port=70000"),
        ("data.labels=[only]", "at least two classes"),
        ("data.patch=[8]", "two numbers for a 2-D task"),
        ("model=unet_2d", "the same dimension"),
        ("rounds", "SETTING=VALUE"),
        ("privacy.release.min_subjects=0", "privacy.release.min_subjects=0"),
        ("privacy.release.noise_multiplier=-1", "privacy.release.noise_multiplier=-1"),
        ("privacy.release.delta=1", "privacy.release.delta=1"),
        ("privacy.release.min_subject=4", "no setting 'privacy.release.min_subject'"),
        ("privacy.release=3", "privacy.release=3"),
        ("model._target_=os.system", "_target_ os.system"),
    ],
)
def test_a_wrong_setting_gets_one_sentence(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        instantiate(load_config([override]).model)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_strategies_are_swept_by_commas() -> None:
    swept = expand_strategies(["strategy=averaging/local,averaging/fedavg", "rounds=2"])
    assert swept == [
        ("strategy=averaging/local", "rounds=2"),
        ("strategy=averaging/fedavg", "rounds=2"),
    ]
    assert expand_strategies(["rounds=2"]) == [("rounds=2",)]
    with pytest.raises(ConfigError, match="once"):
        expand_strategies(["strategy=averaging/local,averaging/local"])


def test_what_travels_rebuilds_the_same_job_on_the_other_side() -> None:
    config = load_config(
        [
            *FLAT,
            "training.epochs=3",
            "model.dropout=0.25",
            "data.patch=[32,32]",
            "data.labels=[a,b,c]",
        ]
    )
    names, settings = job_settings(config)
    assert settings["training.epochs"] == 3
    assert settings["data.labels"] == ["a", "b", "c"]
    job = load_job(names, settings)
    assert job.model == config.model
    assert job.data == config.data
    assert job_digests(job) == job_digests(load_job(*job_settings(config)))


def test_defaults_send_no_settings_at_all() -> None:
    assert job_settings(load_config())[1] == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model._target_", "os.system"),
        ("training.loss._target_", "os.system"),
        ("training.optimizer[_target_]", "torch.optim.SGD"),
        ("training[optimizer][_target_]", "torch.optim.SGD"),
        ("data.intensity[0][_target_]", "monai.transforms.RandFlipd"),
        ("data.intensity.0.keys", "label"),
        ("data[cache_gb]", 1.0),
        ("model.norm[0]", "BATCH"),
        ("model..dropout", 0.5),
        ("model.dropout ", 0.5),
        ("model._recursive_", False),
        ("data.intensity", [{"_target_": "os.system"}]),
        ("deployment.port", 1),
        ("training.epochs", "${oc.env:HOME}"),
        ("data.orientation", "${oc.env:HOME}"),
        ("data.labels", ["background", "${oc.decode:1}"]),
        ("model.act", "PRELU,${data.channels}"),
        ("training.epochs", "2"),
        ("training.epochs", float("inf")),
        ("training.unknown", 1),
        ("training", 1),
        ("data.labels", ["a"] * 1000),
        ("data.labels", ["a", "b" * 1000]),
    ],
)
def test_nothing_but_bounded_scalars_for_existing_settings_is_taken_from_afar(
    key: str, value: object
) -> None:
    with pytest.raises(ConfigError):
        load_job({"model": "unet", "data": "brain_tissue", "training": "default"}, {key: value})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "name", ["../unet", "unet,segresnet", "unet model.dropout=1", "", "/etc/passwd", "unknown"]
)
def test_names_from_afar_are_names(name: str) -> None:
    with pytest.raises(ConfigError):
        load_job({"model": name, "data": "brain_tissue", "training": "default"}, {})


def test_a_target_on_the_command_line_cannot_travel() -> None:
    with pytest.raises(ConfigError, match="cannot be set from afar"):
        job_settings(load_config(["training.loss._target_=monai.losses.DiceLoss"]))


def test_another_conf_has_another_digest(tmp_path: Path) -> None:
    conf = Path(copytree(CONF, tmp_path / "conf"))
    unet = conf / "model" / "unet.yaml"
    unet.write_text(unet.read_text().replace("dropout: 0.0", "dropout: 0.5"))
    names = {"model": "unet", "data": "brain_tissue", "training": "default"}
    ours, theirs = job_digests(load_job(names, {})), job_digests(load_job(names, {}, conf))
    assert ours["model"] != theirs["model"]
    assert ours["data"] == theirs["data"]


@pytest.mark.parametrize("name", list_names("privacy"))
def test_every_privacy_says_what_may_be_released(name: str) -> None:
    config = load_config([f"privacy={name}", "privacy.release.min_subjects=7"])
    release = config.privacy["release"]
    assert isinstance(release, Release)
    assert release.min_subjects == 7
    assert (release.noise_multiplier > 0) == (name == "noisy_descriptions")
    assert "min_subjects: 7" in as_yaml(config)


def test_the_configuration_that_is_kept_is_complete() -> None:
    kept = as_yaml(load_config(["rounds=7"]))
    assert "rounds: 7" in kept
    assert "${" not in kept
