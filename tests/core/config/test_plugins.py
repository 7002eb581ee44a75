"""Configuration of installed packages: found, united, checked, and named with versions."""

from pathlib import Path

import pytest

from polyclinic.config.compose import instantiate, list_names, load_config
from polyclinic.config.folders import CONF, ConfFolder, plugins_named
from polyclinic.config.jobs import job_settings, load_job
from polyclinic.config.targets import allowed_targets
from polyclinic.errors import ConfigError, NameTaken, UnknownName
from tests.plugins import MODEL, Installer

FLAT = ["data=segmentation_2d", "data.labels=[a,b]"]
CODE = "from torch import nn\n\n\nclass Net(nn.Conv2d):\n    pass\n"
NET = "_target_: toy_package.nets.Net\nin_channels: 1\nout_channels: 2\nkernel_size: 3\n"
OFFERS = {"polyclinic.conf": {"toy": "toy_package.conf"}}


def install(installer: Installer, **models: str) -> None:
    files = {f"toy_package/conf/model/{name}.yaml": text for name, text in models.items()}
    code = {"toy_package/__init__.py": "", "toy_package/nets.py": CODE}
    installer.install("toy-package", "1.2", OFFERS, {**code, **files})


def test_a_network_of_an_installed_package_is_a_yaml_file(installer: Installer) -> None:
    install(installer, toy_net=NET, toy_unet=MODEL)
    assert {"toy_net", "toy_unet", "unet"} <= set(list_names("model"))
    config = load_config(["model=toy_net", *FLAT])
    made = instantiate(config.model)
    assert type(made).__name__ == "Net" and made.out_channels == 2
    assert load_job(*job_settings(config)).model == config.model


def test_without_the_package_its_name_is_unknown() -> None:
    with pytest.raises(UnknownName, match="toy_net"):
        load_config(["model=toy_net", *FLAT])


def test_a_package_cannot_take_over_a_name_that_is_built_in(installer: Installer) -> None:
    install(installer, unet=MODEL)
    with pytest.raises(NameTaken, match="toy-package offers model=unet"):
        load_config()
    with pytest.raises(NameTaken):
        list_names("model")


def test_two_packages_cannot_offer_the_same_name(installer: Installer) -> None:
    install(installer, toy_net=NET)
    offers = {"polyclinic.conf": {"other": "other_package"}}
    installer.install("other", "1", offers, {"other_package/model/toy_net.yaml": MODEL})
    with pytest.raises(NameTaken, match="toy_net"):
        list_names("model")


def test_a_folder_that_a_package_promised_and_has_not_is_named(installer: Installer) -> None:
    installer.install("toy-package", "1.2", OFFERS, {"toy_package/__init__.py": ""})
    with pytest.raises(ConfigError, match=r"toy_package\.conf"):
        load_config()


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "toy_package_evil.Net", "other_package.Net"]
)
def test_a_package_may_name_code_of_its_own_and_of_the_libraries_alone(
    installer: Installer, target: str
) -> None:
    install(installer, toy_net=NET.replace("toy_package.nets.Net", target))
    assert target not in allowed_targets()
    with pytest.raises(ConfigError, match=target):
        instantiate(load_config(["model=toy_net", *FLAT]).model)


def test_only_what_conf_names_can_be_made() -> None:
    built_in = set(allowed_targets())
    assert "monai.networks.nets.UNet" in built_in and "torch.optim.LBFGS" not in built_in
    for wrong in ({"_target_": "torch.optim.LBFGS"}, {"_target_": "torch.hub.load"}, {}):
        with pytest.raises(ConfigError, match="_target_"):
            instantiate(wrong)


def test_a_target_inside_another_one_is_checked_too() -> None:
    config = load_config(["model=proxy", "data=proxy_brain", "training=proxy"])
    model = {**config.model, "segmenter": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(ConfigError, match=r"os\.system"):
        instantiate(model)


def test_packages_that_a_job_comes_from_are_named_with_their_versions(
    installer: Installer,
) -> None:
    install(installer, toy_net=NET, toy_unet=MODEL)
    built_in = {"model": "unet", "data": "brain_tissue", "training": "default"}
    assert plugins_named(built_in, {"_target_": "monai.networks.nets.UNet"}) == {}
    assert plugins_named({"model": "toy_unet"}, {}) == {"toy-package": "1.2"}
    nested = {"parts": [{"_target_": "toy_package.nets.Net"}]}
    assert plugins_named(built_in, nested) == {"toy-package": "1.2"}


def test_names_of_a_folder_are_those_of_its_files() -> None:
    assert set(ConfFolder(Path(CONF), "polyclinic").names("strategy")) >= {
        "averaging/fedavg",
        "universal",
    }
