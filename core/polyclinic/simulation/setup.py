"""A simulated run's folder: made, described, and closed as a coordinator does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from polyclinic.config.compose import expand_strategies, load_config
from polyclinic.config.schemas import Config
from polyclinic.config.validation import check_channels
from polyclinic.errors import RunError
from polyclinic.federation.jobs import describe_run
from polyclinic.federation.run_folder import RunFolder

NAME = "simulation"  # of the run
STAY = "strategy.stay."
STAY_S = 86_400  # longest simulated wait for hospitals that only describe their images


def prepare_run(
    folder: Path, settings: Sequence[str], *, resume: bool, describing: int = 0
) -> tuple[RunFolder, list[Config]]:
    """Make a run's folder, or find that of the same settings.

    Args:
        folder: Where the run's folder goes.
        settings: SETTING=VALUE; `strategy=a,b` runs several strategies one after another.
        resume: Go on with what is there.
        describing: Number of hospitals that only describe their images. A strategy that has the
            setting stays open until each of them has its model.

    Returns:
        The folder, and the configuration of each strategy.

    Raises:
        ConfigError: A setting is wrong.
        RunError: There is a run already, or one of other settings.
    """
    expanded = [_stay_open(list(each), describing) for each in expand_strategies(settings)]
    configs = [load_config(each) for each in expanded]
    path = folder / NAME
    if path.exists():
        _check_same(path, expanded, resume=resume)
    else:
        for config in configs:
            check_channels(config.data)
        path.mkdir(parents=True)
        RunFolder(path).keep_settings(expanded, configs)
        RunFolder(path).keep_plan(settings)
    run = RunFolder(path)
    if not is_finished(run):
        describe_run(run, configs, state="running", simulated=True)
    return run, configs


def _stay_open(settings: list[str], describing: int) -> list[str]:
    """Let a strategy wait for describing hospitals, unless its settings say how long it waits.

    One of them that cannot describe itself ends the wait after `STAY_S`, not the run.
    """
    given = {text.partition("=")[0].lstrip("+") for text in settings}
    if not describing or given & {f"{STAY}newcomers", f"{STAY}seconds"}:
        return settings
    if "newcomers" not in (load_config(settings).strategy.get("stay") or {}):
        return settings
    return [*settings, f"{STAY}newcomers={describing}", f"{STAY}seconds={STAY_S}"]


def is_finished(run: RunFolder) -> bool:
    """Tell whether there is nothing left to do."""
    return (run.path / "run.json").exists() and run.describe().get("state") == "finished"


def _check_same(path: Path, expanded: list[list[str]], *, resume: bool) -> None:
    if not resume:
        raise RunError(
            f"{path} exists: choose another folder, or go on with what is there by resume=True."
        )
    if RunFolder(path).settings() != expanded:
        raise RunError(f"{path}: the run there has other settings. Choose another folder.")


@contextmanager
def concluded(run: RunFolder) -> Iterator[None]:
    """Let the run reach a terminal state, whatever happens."""
    try:
        yield
    except BaseException as error:
        run.end(error, "simulate the same with resume=True to go on")
        raise
    run.end(None)
