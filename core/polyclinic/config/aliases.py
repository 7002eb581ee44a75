"""Names that `_target_` had in earlier versions, for files that were written then."""

ALIASES = {  # dotted beginning in 0.1.0 -> dotted beginning now; the longest that fits counts
    "flwr.serverapp.strategy.DifferentialPrivacyServerSideFixedClipping": (
        "polyclinic_strategies.averaging.central_privacy.CentralPrivacy"
    ),
    "polyclinic.augmentation.": "polyclinic.learning.augmenting.image_shifts.",
    "polyclinic.losses.": "polyclinic_strategies.universal.networks.task_loss.",
    "polyclinic.networks.efficientnet.": "polyclinic.learning.networks.efficientnet.",
    "polyclinic.networks.encoders.": "polyclinic_strategies.universal.networks.encoders.",
    "polyclinic.networks.flow_generator.": "polyclinic_strategies.proxy.networks.flow_generator.",
    "polyclinic.networks.identity.": "polyclinic_strategies.proxy.networks.identity.",
    "polyclinic.networks.universal.": "polyclinic_strategies.universal.networks.network.",
    "polyclinic.statistics.": "polyclinic.describing.",
    "polyclinic.statistics.release.": "polyclinic.config.release.",
    "strategies.": "polyclinic_strategies.",
    "strategies.merging.accumulator.": "polyclinic_strategies.merging.streaming.accumulator.",
    "strategies.merging.layer.": "polyclinic_strategies.merging.arithmetic.layer.",
    "strategies.merging.merge.": "polyclinic_strategies.merging.streaming.merge.",
    "strategies.proxy.attackers.": "polyclinic_strategies.proxy.attacks.contest.",
    "strategies.proxy.canonical.": "polyclinic_strategies.proxy.frame.canonical.",
    "strategies.proxy.evidence.": "polyclinic_strategies.proxy.attacks.evidence.",
    "strategies.universal.gating.": "polyclinic_strategies.universal.teaching.gating.",
    "strategies.universal.low_rank.": "polyclinic_strategies.universal.networks.low_rank.",
    "strategies.universal.teachers.": "polyclinic_strategies.universal.teaching.teachers.",
}


def current_name(target: str) -> str:
    """Translate a name of an earlier version; return any other name as it is."""
    fitting = [old for old in ALIASES if target.startswith(old)]
    if not fitting:
        return target
    old = max(fitting, key=len)
    return ALIASES[old] + target.removeprefix(old)


def with_current_names(tree: object) -> object:
    """Copy nested dictionaries and lists, with every `_target_` under its current name."""
    if isinstance(tree, dict):
        return {
            key: current_name(value)
            if key == "_target_" and isinstance(value, str)
            else with_current_names(value)
            for key, value in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [with_current_names(value) for value in tree]
    return tree
