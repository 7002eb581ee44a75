"""Text from files and from other machines."""


def clean(value: object) -> str:
    """Return a value as text in which control characters, which steer a terminal, are replaced.

    None becomes the empty text.
    """
    if value is None:
        return ""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
