"""Text from files and from other machines."""


def clean(value: object) -> str:
    """Return a value as text in which control characters, which steer a terminal, are replaced.

    None becomes the empty text.
    """
    if value is None:
        return ""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def clean_lines(value: object) -> str:
    """Return a value as `clean` does, with its lines kept apart.

    Whatever a program shows in a terminal goes through here or through `clean`: any part of it may
    have come from the other side.
    """
    return "\n".join(map(clean, str(value).split("\n")))
