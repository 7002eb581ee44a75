"""A plan for one site, from folders on this machine: no hospital is asked."""

from collections.abc import Callable, Sequence
from pathlib import Path

from polyclinic.config.compose import load_data
from polyclinic.config.overrides import write_override
from polyclinic.config.plan_files import Plan
from polyclinic.config.release import Release
from polyclinic.config.schemas import Setting
from polyclinic.imaging.dataset_checks import check_agreement
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic_strategies.planning.cohort import combine
from polyclinic_strategies.planning.coordinator import check_plannable
from polyclinic_strategies.planning.fingerprint import Fingerprint, take_fingerprint
from polyclinic_strategies.planning.plan import make_plan
from polyclinic_strategies.planning.strategy import Planning

OPEN = Release(min_subjects=1)  # whoever plans from folders sees all of them


def plan_folders(
    folders: Sequence[Path],
    settings: Sequence[str],
    planning: Planning,
    on_case: Callable[[Path, int, int], None] | None = None,
) -> Plan:
    """Make a plan from folders with dataset.json.

    Args:
        folders: Each counts like a hospital, by its number of patients.
        settings: SETTING=VALUE of the group `data`; classes and channels are those of the first
            folder's dataset.json unless they are given.
        planning: Memory and the like.
        on_case: Called with the folder, the number of its cases done, and of all its cases.

    Raises:
        ConfigError: A setting is wrong, or the folders' classes or channels differ.
        DataError: A folder or a file is not as it should be.
    """
    datasets = [read_dataset(folder) for folder in folders]
    data = load_data([*described_by(datasets[0], settings), *settings])
    check_plannable(data)
    found: dict[str, Fingerprint] = {}
    for folder, dataset in zip(folders, datasets, strict=True):
        check_agreement(dataset, data)

        def tell(number: int, cases: int, folder: Path = folder) -> None:
            if on_case is not None:
                on_case(folder, number, cases)

        name = folder.resolve().name
        found[str(folder) if name in found else name] = take_fingerprint(dataset, data, OPEN, tell)
    return make_plan(combine(found), data, planning)


def described_by(dataset: SiteDataset, settings: Sequence[str]) -> list[str]:
    """Return the settings that a dataset.json answers, without those that are given."""
    given = {text.partition("=")[0] for text in settings}
    said: dict[str, Setting] = {
        "data.labels": list(dataset.labels),
        "data.channels": len(dataset.modality),
        "data.modality": list(dataset.modality),
    }
    found = [write_override(key, value) for key, value in said.items() if key not in given]
    return found if "data" in given else [f"data={dataset.task}", *found]
