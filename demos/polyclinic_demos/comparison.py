"""Settings, titles and the end of a run, for the demos that compare refinement with averaging."""

from collections.abc import Sequence
from pathlib import Path

from polyclinic.config.compose import expand_strategies, load_config
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.federation.live_state import LiveState
from polyclinic.system.processes import Child
from polyclinic_demos.federation import LocalFederation

STRATEGIES = ("averaging/local", "averaging/fedavg", "refinement")
TITLES = {
    "local": "local only",
    "fedavg": "FedAvg",
    "centre": "Merging (mean)",
    "refinement": "Refinement",
    "pooled": "pooled",
}
NOTES = {
    "local": "every hospital alone, with the same number of steps",
    "fedavg": "synchronous rounds of averaging",
    "centre": "the mean of all contributions: what everybody would get alike",
    "refinement": "a model for every hospital, from what its images are like",
    "pooled": "all images in one place: the upper bound, impossible in reality",
}


def comparing_settings(experiment: str, sites: int, seed: int, newcomers: int) -> list[str]:
    """List the settings of a run that compares refinement with averaging.

    Args:
        experiment: Name in conf/experiment.
        sites: Number of hospitals that take part.
        seed: Seed of the run.
        newcomers: Number of hospitals that join later.
    """
    return [
        f"experiment={experiment}",
        f"seed={seed}",
        f"deployment.hospitals={sites}",
        f"deployment.min_hospitals={min(sites, 2)}",
        f"strategy={','.join(STRATEGIES)}",
        "strategy.contributions.poll_s=1.0",
        f"strategy.stay.newcomers={newcomers}",
    ]


def check_settings(settings: Sequence[str], overrides: Sequence[str]) -> Config:
    """Compose every strategy's configuration before anything starts; return the last one's.

    Args:
        settings: Everything that `run` will be given.
        overrides: What of it was given on the command line.

    Raises:
        ConfigError: A wrong setting, or other strategies than the demo's.
    """
    if any(text.startswith("strategy=") for text in overrides):
        raise ConfigError(
            "The demo compares its own strategies: use `polyclinic-server run` to choose others."
        )
    return [load_config(each) for each in expand_strategies(settings)][-1]


def live_state(config: Config, sites: int, arms: Sequence[str]) -> LiveState:
    """Return the state of a run that compares these strategies."""
    titles = {arm: TITLES[arm] for arm in arms if arm != "centre"}
    score = config.data.kind.score_name
    return LiveState(titles, config.rounds, score, frozenset({"refinement"}), sites)


def complete(demo: LocalFederation, arms: Sequence[str]) -> None:
    """Bring into the run what only a demo knows: the hospitals' pictures, who is new, notes.

    Args:
        demo: The demo, at its end.
        arms: Strategies in the order of the report.
    """
    demo.collect_pictures()
    refinement = demo.run.describe().get("refinement", {})
    newcomers = [path.name for path in demo.newcomers]
    described = [{"name": arm, "title": TITLES[arm], "note": NOTES[arm]} for arm in arms]
    demo.run.update(refinement={**refinement, "newcomers": newcomers}, arms=described)


def describing(demo: LocalFederation, data: Path) -> Child:
    """Return the client of a newcomer: it has images without labels, and describes them."""
    from polyclinic_demos.cohorts.hospitals import write_unlabelled

    view = demo.folder / "data" / "newcomers" / data.parent.name / data.name
    return demo.hospital(write_unlabelled(data, view), "--describe")
