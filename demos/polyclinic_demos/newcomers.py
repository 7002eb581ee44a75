"""How the demos' newcomers fare. Only a demo can know: it has the labels that newcomers lack.

`python -m polyclinic_demos.newcomers RUN_FOLDER STATES DATA_FOLDER...` runs after the federation.
It tests every model on the test images of every newcomer, which the federation never saw.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from polyclinic.config.compose import load_config
from polyclinic.federation.events import Progress
from polyclinic.federation.jobs import build_network
from polyclinic.federation.metrics import FILE as METRICS
from polyclinic.federation.metrics import read_metrics
from polyclinic.federation.run_folder import RunFolder
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning.gallery import draw_first
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.state_dict import load_state
from polyclinic.system.processes import end_with_parent

SHARED = ("fedavg", "centre", "pooled")  # models that everybody gets alike
REFINED = "refinement"


def evaluate_newcomers(folder: RunFolder, states: Path, data: Sequence[Path]) -> None:
    """Test at every newcomer each model that is there by now, once, and draw its first test image.

    Args:
        folder: The run.
        states: Folder with what each hospital keeps, by its name.
        data: Data folders of the newcomers, with labels.
    """
    config = load_config(folder.settings()[0])
    network = build_network(config)
    figures, _ = read_metrics(folder.path / METRICS)
    tested = {(figure.site, figure.arm) for figure in figures if figure.phase == "test"}
    for site in data:
        models = {arm: folder.path / "arms" / arm / "model.safetensors" for arm in SHARED}
        models[REFINED] = states / site.name / "refined.safetensors"
        folder.record(Progress(text=f"testing models on {site.name}'s test images"))
        for arm, path in models.items():
            if (site.name, arm) in tested or not path.exists():
                continue
            network.load_state_dict(load_state(path)[0])
            drawing = draw_first(folder.path / "pictures" / site.name, config.data, arm)
            found, _ = evaluate_natively(network, read_dataset(site), config.data, on_case=drawing)
            line = {
                "site": site.name,
                "score": found.score,
                "scores": found.scores,
                "num_examples": found.num_examples,
            }
            folder.add_metrics({"arm": arm, "phase": "test", "round": config.rounds, **line})
    folder.close()


def main() -> None:
    """Run the module's command."""
    end_with_parent()
    data = [Path(path) for path in sys.argv[3:]]
    evaluate_newcomers(RunFolder(Path(sys.argv[1])), Path(sys.argv[2]), data)


if __name__ == "__main__":
    main()
