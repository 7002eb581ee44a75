"""Images without labels, such as a coordinator's public ones, from a folder into one tensor."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError
from polyclinic.imaging.image_files import check_header
from polyclinic.learning.crops import as_batch
from polyclinic.learning.preparation import prepare_image

ENDINGS = (".nii", ".nii.gz", ".png", ".jpg", ".jpeg")
SLICES = 8  # of a volume that a 2-D network reads: evenly spread over its middle two thirds


def find_images(folder: Path) -> list[Path]:
    """List all image files in a folder and its subfolders, in the order of their paths.

    Raises:
        ConfigError: There is none.
    """
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.name.lower().endswith(ENDINGS) and not path.name.startswith(".")
    )
    if not found:
        raise ConfigError(
            f"{folder}: no image there ({', '.join(ENDINGS)}). Name the folder of the unlabelled "
            "images."
        )
    return found


def read_images(
    paths: Sequence[Path], data: DataConfig, on_progress: Callable[[int, int], None] | None = None
) -> Float[Tensor, "images channels *size"]:
    """Read images as a network sees them; of a volume that a 2-D network reads a few slices.

    Args:
        paths: One file each, of one channel or as many as `data` has; one channel is repeated.
        data: How they are prepared.
        on_progress: Called with (files done, files).

    Raises:
        DataError: The typed fault of a file.
    """
    read = []
    for number, path in enumerate(paths, start=1):
        header = check_header(path)
        grey = header.nifti is not None and header.channels == 1
        volume = prepare_image((path,), replace(data, channels=1) if grey else data)[0]
        read.append(as_batch(volume.expand(data.channels, *volume.shape[1:]), data, SLICES))
        if on_progress is not None:
            on_progress(number, len(paths))
    return torch.cat(read)
