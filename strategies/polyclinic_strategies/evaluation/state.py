"""What an evaluation keeps in run.json: its models, and what is known of how they were made."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from polyclinic.errors import RunError
from polyclinic.federation.events import Word
from polyclinic.federation.run_folder import RunFolder
from polyclinic_strategies.evaluation.models import Model

PART = "evaluation"
Count = Annotated[int, Field(ge=0)]


class Training(BaseModel):
    """How a model was trained, as far as it is known.

    Attributes:
        run: Name of the run; empty if unknown.
        strategy: Title of the strategy, or its name.
        round: Number of its last round; None if unknown.
        hospitals: Number of hospitals of the run; None if unknown.
        cases: Number of their training cases.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: Word = ""
    strategy: Word = ""
    round: Count | None = None
    hospitals: Count | None = None
    cases: Count | None = None


class EvaluatedModel(BaseModel):
    """One model of an evaluation.

    Attributes:
        name: In the run.
        file: Name of its file.
        digest: SHA-256 of its tensors.
        parameters: Number of numbers.
        network: Name of the network in conf/.
        version: polyclinic's version that wrote the file.
        trained: How it was trained.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Word
    file: Word = ""
    digest: Word = ""
    parameters: Count = 0
    network: Word = ""
    version: Word = ""
    trained: Training = Training()


class EvaluationState(BaseModel):
    """The part of run.json.

    Attributes:
        models: In the order in which hospitals score them.
        tolerance_mm: Of surface Dice, of each model by its name.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    models: tuple[EvaluatedModel, ...]
    tolerance_mm: dict[Word, float] = {}


def describe_models(models: list[Model]) -> EvaluationState:
    """Describe models as run.json keeps them."""
    described = tuple(
        EvaluatedModel(
            name=each.name,
            file=each.path.name,
            digest=each.digest,
            parameters=each.weights.numel(),
            network=each.origin.names["model"],
            version=each.origin.version,
            trained=find_training(each),
        )
        for each in models
    )
    tolerances = {each.name: each.job.data.tolerance_mm for each in models}
    return EvaluationState(models=described, tolerance_mm=tolerances)


def find_training(model: Model) -> Training:
    """Find out how a model was trained: from its file, and from the run in whose folder it lies."""
    origin = model.origin
    known = Training(run=origin.run, strategy=origin.arm, round=origin.round or None)
    folder = model.path.resolve().parents
    try:
        run = RunFolder(folder[2]).state() if len(folder) > 2 else None
    except RunError:
        return known
    if run is None or (run.name and run.name != origin.run):
        return known
    cases = [each.training for each in run.hospitals.values() if each.training is not None]
    titles = {arm.name: arm.title for arm in run.arms}
    changes = {
        "strategy": titles.get(origin.arm) or origin.arm,
        "hospitals": len(run.hospitals) or None,
        "cases": sum(cases) if cases else None,
    }
    return known.model_copy(update=changes)
