"""Pictures of a run as data URIs: they are there only where a demo made them."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from polyclinic.config.tasks import KINDS
from polyclinic.reporting.results import Results
from polyclinic.reporting.scores import headline

PNG = b"\x89PNG\r\n\x1a\n"
IMAGE, TRUTH = "image", "truth"


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        source: Data URI.
        title: What is under it.
        score: Of the model that made it.
        name: The file's, without its ending: image, truth, or an arm's.
    """

    source: str
    title: str
    score: float | None = None
    name: str = ""


def read_pictures(results: Results) -> dict[str, list[Picture]]:
    """Read image, truth and one prediction for each arm of every hospital that has any.

    The folders are listed rather than joined from the hospitals' names, so a name can lead nowhere
    else.
    """
    root = results.folder / "pictures"
    entries = root.iterdir() if root.is_dir() else ()
    folders = {folder.name: folder for folder in entries if folder.is_dir()}
    table = headline(results)
    found = {}
    for hospital in results.hospitals:
        if hospital.name not in folders:
            continue
        titles: dict[str, tuple[str, float | None]] = {
            IMAGE: (f"{hospital.modality} image".strip(), None),
            TRUTH: ("reference", None),
        }
        for arm in results.arms:
            titles[arm.name] = (arm.title, table.score(hospital.name, arm.name))
        files = {file.stem: file.read_bytes() for file in folders[hospital.name].glob("*.png")}
        pictures = [
            Picture(as_uri(files[name]), title, score, name)
            for name, (title, score) in titles.items()
            if is_png(files.get(name, b""))
        ]
        if pictures:
            found[hospital.name] = pictures
    return found


def read_legend(results: Results) -> Mapping[str, str]:
    """Return the colour of every tissue in the pictures; empty where pictures show none."""
    kind = KINDS.get(results.run.task)
    drawn = kind.drawn(results.run.labels) if kind else ()
    if not drawn:
        return {}
    from polyclinic.imaging.pictures import label_colours

    return label_colours(drawn)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Read the pictures in a folder by file name; links are left out."""
    files = folder.glob("*.png") if folder.is_dir() else ()
    contents = {
        file.name: file.read_bytes() for file in files if file.is_file() and not file.is_symlink()
    }
    return {name: content for name, content in contents.items() if is_png(content)}


def is_png(content: bytes) -> bool:
    """Tell whether a file is a picture."""
    return content.startswith(PNG)


def as_uri(content: bytes) -> str:
    """Write a PNG as a data URI."""
    return f"data:image/png;base64,{b64encode(content).decode()}"
