"""What a hospital's vectors were summed with: STATE/sums/, a small file for each vector.

Two sums that hold the same vector, with other hospitals beside it, can be subtracted from each
other. So a vector goes into a second sum only with the hospitals of the first; and not even with
them if it has noise, which would average out.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from polyclinic.federation.secure_sums.errors import SummedBefore
from polyclinic.federation.secure_sums.masks import Words
from polyclinic.system.durable import make_folder, write_durably

FOLDER = "sums"


def words_digest(words: Words) -> str:
    """Return the SHA-256 of a vector."""
    return sha256(words.data.cast("B")).hexdigest()


def note_sum(state: Path, digest: str, hospitals: Sequence[str], *, once: bool = False) -> None:
    """Note who is in a sum with a vector, before it is revealed.

    Args:
        state: The hospital's state folder.
        digest: The vector's `words_digest`, without noise.
        hospitals: Who is in the sum.
        once: Whether to refuse the same hospitals, too.

    Raises:
        SummedBefore: It was in a sum with others.
    """
    path, names = state / FOLDER / digest, json.dumps(sorted(hospitals)).encode()
    if path.exists() and (once or path.read_bytes() != names):
        raise SummedBefore
    make_folder(path.parent)
    write_durably(path, names)
