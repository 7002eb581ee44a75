"""Evaluation at the coordinator: every hospital scores every model; then the cards are written."""

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import Config
from polyclinic.errors import RunError
from polyclinic.federation.coordinator import RunContext
from polyclinic.federation.events import ArmEnd
from polyclinic.federation.final_test import FinalTest
from polyclinic.federation.run_folder import RunFolder
from polyclinic_strategies.evaluation.events import Scoring
from polyclinic_strategies.evaluation.models import METHOD, Model, make_orders, read_models
from polyclinic_strategies.evaluation.report.card import write_cards
from polyclinic_strategies.evaluation.state import PART, EvaluationState, describe_models
from polyclinic_strategies.evaluation.strategy import Evaluating


class EvaluationCoordinator:
    """Coordinator of an evaluation.

    Args:
        config: Configuration of the run; model, data and training are the first model's.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._settings: Evaluating = instantiate(config.strategy, _recursive_=False)
        self._models: list[Model] = []

    @property
    def title(self) -> str:
        """Name of the strategy in tables."""
        return self._settings.title

    def check(self) -> None:
        """Refuse models that cannot be evaluated together.

        Raises:
            ModelInvalid: A file is damaged, or does not fit this machine's conf/.
            ConfigError: There is no model; or they differ in task or labels.
        """
        self._read()

    def run(self, context: RunContext) -> None:
        """Wait for hospitals, and let them score one model after another.

        What they scored before a restart is not scored again.

        Raises:
            TooFewHospitals: Fewer than the minimum came, or none answered.
            RunError: A model's file was changed since the run began.
        """
        folder, deployment = context.folder, self._config.deployment
        models = self._read()
        self._describe(folder, models)
        minimum = deployment.min_hospitals
        context.attendance.wait_for(max(deployment.hospitals, minimum), minimum, deployment.wait_s)
        folder.update(hospitals=context.attendance.describe(), state="running")
        test = FinalTest(folder, context.grid, context.attendance, deployment)
        titles = {each.name: each.name for each in models}
        orders = make_orders(models, folder.name, self._config.seed)
        for number, (model, order) in enumerate(zip(models, orders, strict=True), 1):
            folder.record(Scoring(arm=model.name, titles=titles, number=number))
            weights = model.weights
            test.run(order, lambda _site, weights=weights: weights)  # type: ignore[misc]
            folder.record(ArmEnd(arm=model.name))
        folder.update(hospitals=context.attendance.describe())
        write_cards(folder.path)

    def _read(self) -> list[Model]:
        if not self._models:
            self._models = read_models(self._settings.models, self._settings.tolerance_mm)
        return self._models

    def _describe(self, folder: RunFolder, models: list[Model]) -> None:
        """List the models in run.json in place of the strategy.

        Raises:
            RunError: They are others than when the run began.
        """
        state = folder.state()
        before, now = state.part(PART, EvaluationState), describe_models(models)
        if before is not None:
            digests = {each.name: each.digest for each in before.models}
            for each in now.models:
                if digests.get(each.name) != each.digest:
                    raise RunError(
                        f"{each.file} was changed since this run began. Bring the file back, or "
                        "start a new evaluation."
                    )
        arms = [{"name": each.name, "title": each.name, "kind": METHOD} for each in models]
        folder.update(arms=arms, **{PART: now.model_dump(mode="json")})
