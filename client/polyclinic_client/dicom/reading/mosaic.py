"""Siemens' mosaics: a volume whose slices are tiles of one large picture.

The number of tiles and the sense of the slices stand in Siemens' private CSA header, which nibabel
reads. The position that the file gives is that of a picture as large as the mosaic: the first
tile's lies nearer to the middle (nibabel's documentation, "DICOM mosaic", derives it).
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from polyclinic_client.dicom.reading.elements import SILENCE, Malformed
from polyclinic_client.dicom.reading.frames import Frame

CSA = (0x0029, 0x1010)
MOST_CSA_BYTES = 2**20
MOST_TILES = 4096


def is_mosaic(image_type: tuple[str, ...]) -> bool:
    """Tell whether an image is a mosaic, by its ImageType."""
    return "MOSAIC" in image_type


def tile_frames(header: Dataset, whole: Frame, rows: int, columns: int) -> tuple[Frame, ...]:
    """Read where the tiles of a mosaic lie.

    Args:
        header: The file's.
        whole: The mosaic as one frame.
        rows: Of the mosaic.
        columns: Of the mosaic.

    Returns:
        A frame for each tile, row by row.

    Raises:
        Malformed: The private header is missing or does not fit.
    """
    csa = _csa_header(header)
    count = _value(csa, "NumberOfImagesInMosaic", 1)
    if not 1 <= count <= MOST_TILES or count != int(count):
        raise Malformed("it is a mosaic, and its private header does not say of how many images")
    side = math.ceil(math.sqrt(count))
    if rows % side or columns % side or whole.thickness <= 0:
        raise Malformed("it is a mosaic whose tiles do not fit into it")
    normal = np.array(whole.normal)
    stated = np.array([_value(csa, "SliceNormalVector", 3, place) for place in range(3)])
    sense = float(normal @ stated)
    if abs(abs(sense) - 1) > 1e-2:
        raise Malformed("it is a mosaic, and its private header does not say how its slices lie")
    first = (
        np.array(whole.position)
        + np.array(whole.along_row) * whole.spacing[0] * (columns - columns // side) / 2
        + np.array(whole.along_column) * whole.spacing[1] * (rows - rows // side) / 2
    )
    step = normal * math.copysign(whole.thickness, sense)
    found = []
    for number in range(int(count)):
        x, y, z = (float(each) for each in first + number * step)
        found.append(replace(whole, number=number, position=(x, y, z)))
    return tuple(found)


def cut_tiles(plane: NDArray[Any], count: int) -> NDArray[Any]:
    """Cut a mosaic into its tiles.

    Args:
        plane: Shape (rows, columns).
        count: Number of tiles that hold an image.

    Returns:
        Shape (count, rows of a tile, columns of a tile).
    """
    side = math.ceil(math.sqrt(count))
    rows, columns = plane.shape[0] // side, plane.shape[1] // side
    tiles = plane.reshape(side, rows, side, columns).swapaxes(1, 2)
    return tiles.reshape(side * side, rows, columns)[:count]


def _csa_header(header: Dataset) -> dict[str, Any]:
    raw = header.get(CSA)
    value = getattr(raw, "value", None)
    if not isinstance(value, bytes) or len(value) > MOST_CSA_BYTES:
        raise Malformed("it is a mosaic without Siemens' private header")
    with SILENCE:  # nibabel calls these readers experimental
        from nibabel.nicom import csareader
    try:
        tags: dict[str, Any] = csareader.read(value)["tags"]
    except Exception as error:  # csareader raises CSAReadError, struct.error, and others
        raise Malformed("it is a mosaic, and its private header is damaged") from error
    return tags


def _value(csa: dict[str, Any], name: str, count: int, place: int = 0) -> float:
    values = csa.get(name, {}).get("items", [])
    if len(values) < count:
        raise Malformed("it is a mosaic, and its private header lacks what describes it")
    found = float(values[place])
    if not math.isfinite(found):
        raise Malformed("it is a mosaic, and its private header is damaged")
    return found
