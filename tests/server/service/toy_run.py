"""The process of a run that trains nothing: `polyclinic_server.service.run_process` for tests.

Settings: rounds=N, hospitals=N, seed=N, sites=a,b; fail=1 ends in an error, and refuse=1 in a
refusal before it takes part.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from polyclinic.errors import ConfigError, RunError
from polyclinic.federation.events import Note
from polyclinic.federation.run_folder import RunFolder
from polyclinic.system.exit_codes import INTERRUPTED, end_like_ctrl_c
from polyclinic.system.processes import end_with_parent
from polyclinic_server.fleet.grid import FleetGrid
from polyclinic_server.runs.lock import FLEET
from polyclinic_server.service.served_desk import give_up
from polyclinic_server.service.served_post import ServedPost
from polyclinic_server.service.task import RunTask

VALUES = 50_000  # of the array; it travels as a blob
WAIT_S = 0.2


def work(task: RunTask) -> None:
    """Ask hospitals round after round, and keep the sum; go on after the last one."""
    fleet, folder = Path(task.runs) / FLEET, RunFolder(Path(task.runs) / task.name)
    if "refuse=1" in task.settings:
        error = ConfigError("there is no such setting")
        give_up(fleet, task.name, error)
        raise error
    folder.path.mkdir(exist_ok=True)
    if not task.resume:
        (folder.path / "settings.json").write_text(json.dumps(task.settings))
    settings = json.loads((folder.path / "settings.json").read_text())
    asked = dict(each.split("=") for each in settings)
    folder.update(state="running", arms=[], name=task.name, pid=os.getpid(), reason=None)
    sites = tuple(filter(None, asked.get("sites", "").split(",")))

    def note(text: str) -> None:
        folder.record(Note(text=text))

    with ServedPost(fleet, task.name, (), sites, note) as post:
        if "fail" in asked and not task.resume:
            raise RunError("it was told to fail")
        result = rounds(folder, FleetGrid(post), asked)
    np.save(folder.path / "result.npy", result)
    folder.update(state="finished")


def rounds(folder: RunFolder, grid: FleetGrid, asked: dict[str, str]) -> np.ndarray:
    """Run all rounds that are left."""
    kept = folder.path / "rounds.npz"
    seed, first = int(asked.get("seed", 0)), 0
    weights = np.random.default_rng(seed).random(VALUES, np.float32)
    if kept.exists():
        with np.load(kept) as file:
            first, weights = int(file["round"]), file["weights"]
    for number in range(first, int(asked["rounds"])):
        answers = one_round(grid, weights, int(asked["hospitals"]))
        weights = sum((answers[node] for node in sorted(answers)), np.zeros_like(weights))
        weights = (weights / np.abs(weights).max()).astype(np.float32)
        partial = folder.path / "partial.npz"
        np.savez(partial, round=number + 1, weights=weights)
        partial.replace(kept)
    return weights


def one_round(grid: FleetGrid, weights: np.ndarray, wanted: int) -> dict[int, np.ndarray]:
    """Ask until so many hospitals have answered; one that was started anew is asked again."""
    content = RecordDict({"arrays": ArrayRecord([weights])})
    waiting: dict[str, int] = {}
    answers: dict[int, np.ndarray] = {}
    while len(answers) < wanted:
        still = set(grid._post.open(waiting))
        waiting = {key: node for key, node in waiting.items() if key in still}
        new = [node for node in grid.get_node_ids() if node not in (*waiting.values(), *answers)]
        messages = [grid.create_message(content, "train", node, "1") for node in new]
        pushed = zip(grid.push_messages(messages), new, strict=True)
        waiting |= {key: node for key, node in pushed if key}
        for reply in grid.pull_messages(list(waiting)):
            node = waiting.pop(reply.metadata.reply_to_message_id)
            if reply.has_content():
                answers[node] = reply.content["arrays"].to_numpy_ndarrays()[0]
        grid.wait_for_news(WAIT_S)
    return answers


def main() -> None:
    """Run the module's command."""
    signal.signal(signal.SIGTERM, end_like_ctrl_c)
    end_with_parent()
    task = RunTask.model_validate_json(sys.argv[1])
    try:
        work(task)
    except KeyboardInterrupt:
        RunFolder(Path(task.runs) / task.name).end(KeyboardInterrupt())
        sys.exit(INTERRUPTED)
    except (RunError, ConfigError) as error:
        RunFolder(Path(task.runs) / task.name).end(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
