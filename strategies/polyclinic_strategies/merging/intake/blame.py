"""Errors of a merge that are one contribution's fault."""

from polyclinic.errors import ConfigError, ModelInvalid, PolyclinicError


class EntryInvalid(ModelInvalid):
    """A contribution belongs to another network, or holds NaN or Inf.

    Args:
        key: Site or digest under which the merge knows the contribution.
        sentence: What is wrong, and what to do about it.
    """

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


class EntryUnsuitable(ConfigError):
    """A contribution does not suit a rule: it lacks what the others have, or is too large.

    Args:
        key: Site or digest under which the merge knows the contribution.
        sentence: What is wrong, and what to do about it.
    """

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


def blamed(error: PolyclinicError) -> str:
    """Return the key of the contribution whose fault an error is; empty if it is nobody's."""
    return error.key if isinstance(error, EntryInvalid | EntryUnsuitable) else ""
