"""The files that a `dataset.json` names: where they may lie, and those of nnU-Net's folders."""

import os
from collections.abc import Mapping
from pathlib import Path

from polyclinic.errors import DatasetInvalid, FileMissing
from polyclinic.imaging.dataset_json import Entry, Listing, Split

ELSEWHERE = "POLYCLINIC_IMAGE_FOLDERS"  # environment variable: further folders that may hold images
NNUNET_FOLDERS: dict[Split, tuple[str, str]] = {
    "training": ("imagesTr", "labelsTr"),
    "test": ("imagesTs", "labelsTs"),
}
NNUNET_CHANNEL = "_0000"
_allowed: set[Path] = set()


def allow_images_in(*folders: Path) -> None:
    """Allow every dataset.json that this process reads to name files below these folders."""
    _allowed.update(folder.resolve() for folder in folders)


def allowed_roots(folder: Path) -> tuple[Path, ...]:
    """Return the folders in which the files of a dataset.json may lie."""
    named = filter(None, os.environ.get(ELSEWHERE, "").split(os.pathsep))
    return (folder.resolve(), *(Path(each).resolve() for each in named), *_allowed)


def plain_path(name: str) -> str:
    """Return a path as listed, with slashes and without a leading ./."""
    return Path(name.replace("\\", "/")).as_posix()


def find_file(path: Path, name: str, split: str, where: str, roots: tuple[Path, ...]) -> Path:
    """Return the file that an entry names, relative to the folder."""
    try:
        found = path.parent / name
        if "\\" in name and not found.exists():
            found = path.parent / name.replace("\\", "/")
        if not any(found.resolve().is_relative_to(root) for root in roots):
            raise DatasetInvalid(
                path,
                f"{where} names {name!r}, which lies outside of the folder",
                f"Move dataset.json to a folder above all images, or name the images' folder in "
                f"the environment variable {ELSEWHERE}.",
            )
        if not found.is_file():
            raise FileMissing(found, split, _what_is_there(found))
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetInvalid(
            path, f"{where} names a file that cannot be reached ({reason})", "Correct the path."
        ) from error
    return found


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        return "is a folder: make a data set of DICOM by `polyclinic-client import`"
    if path.is_symlink():
        return f"is a link to {path.readlink()}, where there is no file"
    return ""


def list_folders(path: Path, listing: Listing) -> Mapping[Split, tuple[Entry, ...]]:
    """List the cases in nnU-Net's folders: CASE_0000.nii.gz, CASE_0001.nii.gz, ... for channels."""
    found: dict[Split, tuple[Entry, ...]] = {}
    last = f"{NNUNET_CHANNEL}{listing.file_ending}"
    for split, (images, labels) in NNUNET_FOLDERS.items():
        drawn = set(_names_in(path, labels))
        entries = []
        for name in _names_in(path, images):
            if not name.endswith(last) or name.startswith("."):
                continue
            case = name.removesuffix(last)
            channels = [
                f"{images}/{case}_{number:04}{listing.file_ending}"
                for number in range(len(listing.modality))
            ]
            file = f"{case}{listing.file_ending}"
            wanted = split == "training" or file in drawn
            entries.append(Entry(tuple(channels), f"{labels}/{file}" if wanted else None))
        found[split] = tuple(entries)
    return found


def _names_in(path: Path, folder: str) -> list[str]:
    """Return the names in a folder, sorted; none if there is no such folder."""
    try:
        return sorted(each.name for each in (path.parent / folder).iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DatasetInvalid(
            path, f"{folder} cannot be read ({error.strerror})", "Check its permissions."
        ) from error
