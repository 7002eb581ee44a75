"""How the demo's newcomers fare: only a demo can know, since its newcomers' labels are ours.

Runs as `python -m polyclinic_demos.newcomers RUN_FOLDER STATES DATA_FOLDER...` after the federation: every model on the test images of every
newcomer, whose folder of labelled images the federation never saw.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from polyclinic.config.compose import load_config
from polyclinic.federation.jobs import build_network
from polyclinic.federation.run_folder import RunFolder
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning.gallery import draw_first
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.state_dict import load_state
from polyclinic.system.processes import end_with_parent

SHARED = ("fedavg", "centre", "pooled")  # models that everybody gets alike
REFINED = "refinement"


def test_newcomers(folder: RunFolder, states: Path, data: Sequence[Path]) -> None:
    """Test every model at every newcomer, and draw its first test image."""
    config = load_config(json.loads((folder.path / "overrides.json").read_text())[0])
    network = build_network(config)
    for site in data:
        models = {arm: folder.path / "arms" / arm / "model.safetensors" for arm in SHARED}
        models[REFINED] = states / site.name / "refined.safetensors"
        folder.record(
            {"kind": "progress", "text": f"testing the models on {site.name}'s test images"}
        )
        for arm, path in models.items():
            if path.exists():
                network.load_state_dict(load_state(path)[0])
                drawing = draw_first(folder.path / "pictures" / site.name, config.data, arm)
                found, _ = evaluate_natively(
                    network, read_dataset(site), config.data, on_case=drawing
                )
                line = {
                    "site": site.name,
                    "score": found.score,
                    "scores": found.scores,
                    "num_examples": found.num_examples,
                }
                folder.add_metrics({"arm": arm, "phase": "test", "round": config.rounds, **line})
    folder.close()


def main() -> None:
    """The module's command."""
    end_with_parent()
    test_newcomers(
        RunFolder(Path(sys.argv[1])), Path(sys.argv[2]), [Path(path) for path in sys.argv[3:]]
    )


if __name__ == "__main__":
    main()
