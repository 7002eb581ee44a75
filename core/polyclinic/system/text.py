"""Words that came from elsewhere."""


def clean(value: object) -> str:
    """Return a word from a file without the control characters that would steer a terminal."""
    if value is None:
        return ""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
