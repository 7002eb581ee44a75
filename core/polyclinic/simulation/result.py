"""What a simulated run came to: its scores, its report and its models."""

import shutil
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError, safe_open

from polyclinic.errors import ConfigError, ModelInvalid, UnknownName
from polyclinic.learning.state_dict import load_metadata
from polyclinic.reporting.results import Results, read_results
from polyclinic.reporting.scores import ScoreTable, by_label, headline
from polyclinic.simulation.sides import REPORT, load_side

if TYPE_CHECKING:
    from torch import nn

MEAN = "mean"


class Rows(list[dict[str, Any]]):
    """A table as a list of rows; printed, it looks like one."""

    def __str__(self) -> str:
        names = list(self[0]) if self else []
        cells = [names, *([_show(row[name]) for name in names] for row in self)]
        widths = [max(len(row[place]) for row in cells) for place in range(len(names))]
        lines = [
            "  ".join(
                text.ljust(width) if place == 0 else text.rjust(width)
                for place, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        return "\n".join(lines)


class SimulationResult:
    """A simulated run that is over.

    Use it in a `with` block, or call `close`, to remove a temporary folder early; otherwise it is
    removed with the object. A folder that `simulate` was given stays.

    Example:
        ```python
        with polyclinic.simulate("data", rounds=3) as result:
            print(result.table(), result.scores["fedavg"])
            network = result.model("fedavg")
        ```

    Attributes:
        folder: The run's folder, as a coordinator's: run.json, events.jsonl, metrics.jsonl, arms/.
        hospitals: Folder of each hospital: what it keeps, such as its own models and pictures.
        faults: What hospitals could not do, in full, by hospital.
    """

    def __init__(
        self,
        folder: Path,
        hospitals: Mapping[str, Path],
        faults: Mapping[str, Sequence[Exception]],
        temporary: Path | None = None,
    ) -> None:
        self.folder = folder
        self.hospitals = dict(hospitals)
        self.faults = {site: tuple(found) for site, found in faults.items()}
        self._clean = None
        if temporary is not None:
            self._clean = weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)

    @cached_property
    def results(self) -> Results:
        """Everything that was measured, as reports are made of it."""
        return read_results(self.folder)

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """Test scores by strategy and hospital: mean Dice, or balanced accuracy, 0 to 1.

        Models that a strategy is compared with are among the strategies. A hospital without a
        test score, say because it was away, is left out.
        """
        found: dict[str, dict[str, float]] = {}
        for metric in (*self.results.metrics, *self.results.compared):
            if metric.phase == "test" and metric.score is not None:
                found.setdefault(metric.arm, {})[metric.site] = metric.score
        return found

    def table(self, label: str | None = None) -> Any:
        """Tabulate test scores: a row for each hospital and the mean, a column for each strategy.

        Args:
            label: One class of the task; None: the mean over classes.

        Returns:
            A `pandas.DataFrame` if pandas is installed, else a list of dictionaries that prints as
            a table. The mean is over the hospitals that have a score in every column.

        Raises:
            UnknownName: The task has no such class, or none that was scored.
        """
        rows = self._rows(label)
        if find_spec("pandas") is None:
            return rows
        return import_module("pandas").DataFrame(rows).set_index("hospital")

    def _rows(self, label: str | None) -> Rows:
        table, titles, rows = self._scores_of(label), self._titles(), Rows()
        for site in table.rows:
            scores = {title: table.score(site, arm) for arm, title in titles.items()}
            rows.append({"hospital": site, **scores})
        means = {title: table.mean_score(arm) for arm, title in titles.items()}
        return Rows([*rows, {"hospital": MEAN, **means}])

    def _scores_of(self, label: str | None) -> ScoreTable:
        if label is None:
            return headline(self.results)
        tables = by_label(self.results)
        if label not in tables:
            raise UnknownName("class", label, list(tables))
        return tables[label]

    def _titles(self) -> dict[str, str]:
        """Strategies that have a score, with titles that differ."""
        table = headline(self.results)
        arms = [
            arm
            for arm in self.results.arms
            if any(table.score(site, arm.name) is not None for site in table.rows)
        ]
        titles = [arm.title for arm in arms]
        return {arm.name: arm.title if titles.count(arm.title) == 1 else arm.name for arm in arms}

    def report(self, path: str | Path | None = None) -> Path:
        """Write the same HTML page that a coordinator gets, with pictures of the hospitals' images.

        Args:
            path: The file to write; None: report.html in the run's folder.

        Returns:
            The file.

        Raises:
            SideMissing: The coordinator's side is not installed.
        """
        for site, state in self.hospitals.items():
            for picture in (state / "runs" / self.folder.name).glob("*/pictures/*.png"):
                target = self.folder / "pictures" / site / picture.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(picture, target)
        written = Path(load_side(REPORT)(self.folder))
        if path is None:
            return written
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(written, path))

    def model(self, strategy: str, hospital: str | None = None) -> "nn.Module":
        """Load a trained network, in evaluation mode.

        Args:
            strategy: Name of the strategy, as in `scores`.
            hospital: The hospital whose model is wanted, where models differ; None: the shared one.

        Raises:
            UnknownName: There is no such model.
            ModelInvalid: Its file is damaged.
        """
        from polyclinic.learning.model_file import load_model

        return load_model(self.model_file(strategy, hospital))[0]

    def model_file(self, strategy: str, hospital: str | None = None) -> Path:
        """Find the file of a trained network, for `polyclinic.predict` and `polyclinic.evaluate`.

        Args:
            strategy: Name of the strategy, as in `scores`.
            hospital: The hospital whose model is wanted; None: the shared one.

        Raises:
            UnknownName: There is no such model.
            ConfigError: The strategy leaves tensors at the hospitals, and no hospital is named.
        """
        files = self._shared_files() if hospital is None else self._own_files(hospital)
        if strategy not in files:
            raise UnknownName("model of a strategy", strategy, sorted(files))
        if hospital is None and _describe(files[strategy]).get("personal", "none") != "none":
            raise ConfigError(
                f"{strategy}: hospitals keep tensors of their own, so each has a model of its own. "
                "Name the hospital whose model you want."
            )
        return files[strategy]

    def _shared_files(self) -> dict[str, Path]:
        return {path.parent.name: path for path in self.folder.glob("arms/*/model.safetensors")}

    def _own_files(self, hospital: str) -> dict[str, Path]:
        """Find a hospital's models: those it was tested with, and those made for it alone."""
        if hospital not in self.hospitals:
            raise UnknownName("hospital", hospital, sorted(self.hospitals))
        state = self.hospitals[hospital]
        made = {str(_describe(path).get("arm", "")): path for path in state.glob("*.safetensors")}
        tested = (state / "runs" / self.folder.name).glob("*/model.safetensors")
        found = {**made, **{path.parent.name: path for path in tested}}
        return {name: path for name, path in found.items() if name}

    def close(self) -> None:
        """Remove the folder, if it is a temporary one."""
        if self._clean is not None:
            self._clean()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        means = {name: fmean(row.values()) for name, row in self.scores.items() if row}
        told = ", ".join(f"{name}={value:.3f}" for name, value in means.items())
        return f"SimulationResult({told}, folder={str(self.folder)!r})"


def _show(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str("" if value is None else value)


def _describe(path: Path) -> Mapping[str, object]:
    """Read what a model's file says of itself; nothing if it is not one of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            return load_metadata(file.metadata() or {}, path)
    except (OSError, SafetensorError, ModelInvalid):
        return {}
