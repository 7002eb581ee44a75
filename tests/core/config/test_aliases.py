"""Names of code in files of 0.1.0 are read."""

from importlib import import_module

import pytest

from polyclinic.config.aliases import current_name, with_current_names
from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.targets import allowed_targets

OLD = (  # every _target_ of ours in conf/ of 0.1.0
    "polyclinic.losses.TaskLoss",
    "polyclinic.networks.efficientnet.EfficientNetLite0",
    "polyclinic.networks.encoders.ConvolutionalEncoder",
    "polyclinic.networks.encoders.VitEncoder",
    "polyclinic.networks.universal.UniversalNetwork",
    "strategies.averaging.strategy.Averaging",
    "strategies.merging.rules.dare.Dare",
    "strategies.merging.rules.dare_ties.DareTies",
    "strategies.merging.rules.fisher.Fisher",
    "strategies.merging.rules.iso_c.IsoC",
    "strategies.merging.rules.krum.Krum",
    "strategies.merging.rules.mean.Mean",
    "strategies.merging.rules.multi_krum.MultiKrum",
    "strategies.merging.rules.regmean.RegMean",
    "strategies.merging.rules.sum.Sum",
    "strategies.merging.rules.ties.Ties",
    "strategies.merging.rules.trimmed_mean.TrimmedMean",
    "strategies.merging.rules.tsv_m.TsvM",
    "strategies.merging.rules.weighted_mean.WeightedMean",
    "strategies.merging.rules.wudi.Wudi",
    "strategies.merging.strategy.Merging",
    "strategies.proxy.system.ProxySystem",
    "strategies.refinement.strategy.Refining",
    "strategies.universal.distillation.Distillation",
    "strategies.universal.strategy.Universal",
)
MOVED = (  # others that a file could name
    "polyclinic.augmentation.ImageShifts",
    "polyclinic.networks.flow_generator.FlowGenerator",
    "polyclinic.networks.identity.IdentityNetwork",
    "polyclinic.statistics.histogram.Histogram",
    "polyclinic.statistics.release.Release",
    "strategies.merging.accumulator.Accumulator",
    "strategies.proxy.generator.NoField",
    "strategies.proxy.attackers.AttackTraining",
    "strategies.universal.low_rank.Update",
    "strategies.universal.teachers.Teacher",
)


@pytest.mark.parametrize("old", OLD)
def test_what_conf_named_then_can_be_made_now(old: str) -> None:
    assert current_name(old) in allowed_targets()


@pytest.mark.parametrize("old", [*OLD, *MOVED])
def test_every_old_name_leads_to_code_that_exists(old: str) -> None:
    module, _, name = current_name(old).rpartition(".")
    assert hasattr(import_module(module), name)


def test_other_names_stay() -> None:
    for name in ("monai.networks.nets.UNet", "polyclinic_strategies.merging.strategy.Merging"):
        assert current_name(name) == name
    tree = {"_target_": "polyclinic.losses.TaskLoss", "note": "strategies.merging.strategy.Merging"}
    assert with_current_names([tree])[0]["note"] == tree["note"]  # type: ignore[index]


def test_old_names_are_read_on_the_command_line_and_in_nodes() -> None:
    old = "strategies.merging.rules.ties.Ties"
    config = load_config(["strategy=merging/ties", f"strategy.rule._target_={old}"])
    assert config.strategy["rule"]["_target_"] == f"polyclinic_{old}"
    loss = instantiate({"_target_": "polyclinic.losses.TaskLoss", "label_smoothing": 0.1})
    assert loss.label_smoothing == 0.1
