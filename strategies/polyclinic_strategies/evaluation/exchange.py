"""What an order says besides: which weights travel, and with which models they are compared."""

import re
from collections.abc import Mapping

WEIGHTS = "weights"  # among an order's digests: SHA-256 of the packed weights
COMPARED = "compared."  # likewise, then the name of a model that was scored before
NAME = re.compile(r"\w[\w.-]{0,99}")


def compared_models(digests: Mapping[str, str]) -> dict[str, str]:
    """Return the models to compare with: name, which may be a folder's, to digest."""
    found = {
        key.removeprefix(COMPARED): digest
        for key, digest in digests.items()
        if key.startswith(COMPARED)
    }
    return {name: digest for name, digest in found.items() if NAME.fullmatch(name)}
