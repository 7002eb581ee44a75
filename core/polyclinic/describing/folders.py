"""Statistics of the images in a folder, as a hospital computes them before they leave."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor, nn

from polyclinic.config.compose import load_data
from polyclinic.config.release import Release
from polyclinic.describing import statistics as described
from polyclinic.errors import ConfigError
from polyclinic.imaging.datasets import read_dataset
from polyclinic.imaging.subjects import number_subjects
from polyclinic.learning.model_file import load_model
from polyclinic.learning.preparation import prepare_image


def describe(
    folder: str | Path,
    statistics: Sequence[str],
    *settings: str,
    model: str | Path | None = None,
    min_subjects: int = 3,
    noise_multiplier: float = 0.0,
) -> dict[str, Tensor]:
    """Describe a folder's images by statistics, without any label.

    Example:
        ```python
        found = polyclinic.describe("data/st-mary", ["histogram"], "data=segmentation_2d")
        found["histogram"].shape
        ```

    Args:
        folder: Folder with dataset.json; all its images are read, labelled or not.
        statistics: Names of installed statistics, such as "histogram" or "average_image".
        settings: "SETTING=VALUE" of the group `data`, which say what an image is, such as
            "data=segmentation_2d"; no `model` is needed. Those of the model if one is given.
        model: File of the model whose features are described; only some statistics need one.
        min_subjects: Fewer subjects are not described, because one of them would show.
        noise_multiplier: Standard deviation of the Gaussian noise on the sum over subjects, each of
            which counts at most 1.

    Returns:
        For each statistic the mean over the subjects, float32, (numbers,); its length is at most 1.

    Raises:
        UnknownName: There is no such statistic or setting.
        ConfigError: A statistic needs a model, and none is given.
        TooFewSubjects: There are fewer subjects than `min_subjects`.
        StatisticInvalid: A statistic failed, or returned something else than it should.
        DataError: dataset.json or an image is not as it should be.
    """
    network: nn.Module
    if model is None:
        network, data = nn.Identity(), load_data(settings)
        for name in statistics:
            if described.statistic_named(name).needs_network:
                raise ConfigError(
                    f"The statistic {name} is made of a model's features: add model=FILE, such as "
                    "`polyclinic-server export latest --to FILE` writes."
                )
    else:
        network, job = load_model(Path(model))
        data = job.data
    cases = read_dataset(Path(folder), labelled=False).cases

    def images() -> Iterator[Tensor]:
        for case in cases:
            yield prepare_image(case.image, data)[0]

    release = Release(min_subjects=min_subjects, noise_multiplier=noise_multiplier)
    return described.describe(statistics, images(), number_subjects(cases), network, release)
