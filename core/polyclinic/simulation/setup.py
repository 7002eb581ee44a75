"""A simulated run's folder: made, described, and closed as a coordinator does."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from polyclinic.config.compose import as_yaml, expand_strategies, load_config
from polyclinic.config.schemas import Config
from polyclinic.errors import PolyclinicError, RunError
from polyclinic.federation.jobs import arm_name
from polyclinic.federation.method import method_of
from polyclinic.federation.run_folder import RunFolder, now, versions, write_whole

NAME = "simulation"  # of the run
SCORE_NAMES = {"segmentation": "Dice", "classification": "balanced accuracy", "own": "score"}
ASKED = "overrides.json"


def prepare_run(
    folder: Path, settings: Sequence[str], *, resume: bool
) -> tuple[RunFolder, list[Config]]:
    """Make a run's folder, or find that of the same settings.

    Args:
        folder: Where the run's folder goes.
        settings: SETTING=VALUE; `strategy=a,b` runs several strategies one after another.
        resume: Go on with what is there.

    Returns:
        The folder, and the configuration of each strategy.

    Raises:
        ConfigError: A setting is wrong.
        RunError: There is a run already, or one of other settings.
    """
    expanded = [list(each) for each in expand_strategies(settings)]
    configs = [load_config(each) for each in expanded]
    path = folder / NAME
    if path.exists():
        _check_same(path, expanded, resume=resume)
        return RunFolder(path), configs
    path.mkdir(parents=True)
    write_whole(path / ASKED, json.dumps(expanded))
    write_whole(path / "config.yaml", "---\n".join(as_yaml(config) for config in configs))
    run = RunFolder(path)
    describe_run(run, configs)
    return run, configs


def _check_same(path: Path, expanded: list[list[str]], *, resume: bool) -> None:
    if not resume:
        raise RunError(
            f"{path} exists: choose another folder, or go on with what is there by resume=True."
        )
    kept = json.loads((path / ASKED).read_text()) if (path / ASKED).exists() else []
    if kept != expanded:
        raise RunError(f"{path}: the run there has other settings. Choose another folder.")


def describe_run(run: RunFolder, configs: Sequence[Config]) -> None:
    """Write run.json, as it is before the first strategy."""
    first = configs[0]
    arms = []
    for config in configs:
        method, name = method_of(config), arm_name(config)
        arm = {"name": name, "title": str(config.strategy.get("title", name))}
        arms.append({**arm, **({} if method.pace == "rounds" else {"kind": method.name})})
    run.update(
        name=run.name,
        started=now(),
        finished=None,
        state="running",
        reason=None,
        versions=versions(),
        seed=first.seed,
        rounds=first.rounds,
        arms=arms,
        task=first.data.task,
        score_name=SCORE_NAMES[first.data.task],
        labels=list(first.data.labels),
        hospitals={},
    )


@contextmanager
def concluded(run: RunFolder) -> Iterator[None]:
    """Let the run reach a terminal state, whatever happens."""
    try:
        yield
    except KeyboardInterrupt:
        run.update(state="interrupted", finished=now(), reason="interrupted")
        raise
    except BaseException as error:
        known = isinstance(error, PolyclinicError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        run.update(state="failed", finished=now(), reason=reason)
        raise
    else:
        run.update(state="finished", finished=now())
    finally:
        run.close()


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write what Flower and hospitals log to a file, and nothing of it to the terminal."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("flwr", "polyclinic")]
    before = [(list(each.handlers), each.propagate) for each in loggers]
    for each in loggers:
        each.handlers, each.propagate = [handler], False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for each, (handlers, propagate) in zip(loggers, before, strict=True):
                each.handlers, each.propagate = handlers, propagate
            handler.close()
