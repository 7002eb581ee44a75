"""Inputs that were sound once: bytes and trees of plain values with a few faults.

All of it is drawn from a `random.Random`. A seeded one makes a thousand inputs a second; that of
`hypothesis.strategies.randoms` makes a strategy of the same inputs, which hypothesis shrinks.
"""

import json
import math
from random import Random
from typing import Any

__all__ = ["Random", "as_json", "as_lines", "changed", "damaged", "fault"]

DEEP = 100_000  # brackets; far beyond every parser's stack
HUGE_INTEGERS = (2**31, 2**32, 2**63 - 1, -(2**63), 2**64, 10**40, 10**400)
FLOATS = (0.5, -0.0, 1e-320, 1e300, math.nan, math.inf, -math.inf)
TEXTS = (
    *("", " ", "0", "1", "-1", "1.5", "nan", "²", "\0", "\n", "\x1b[2J", "\ud800", "ü", "\u202e"),
    *("..", "/", "~", ".", "../x", "/etc/hostname", "C:\\x", "%s", "{0}", "${oc.env:HOME}"),
    *("_target_", "os.system", "link", "2024-01-01T00:00:00", "9" * 5000, "a" * 300, "a" * 100_000),
)
LISTS: tuple[Any, ...] = ([], {}, [[]], [None], [{}], {"": ""}, {"0": "a"}, {"a": 0}, [0] * 2000)
VALUES = (None, True, False, 0, 1, -1, 255, *HUGE_INTEGERS, *FLOATS, *TEXTS, *LISTS)
BYTES = (0, 1, 10, 34, 44, 58, 91, 123, 127, 128, 200, 255)


def fault(random: Random) -> Any:
    """Draw a value that few readers expect."""
    kind = random.randrange(8)
    if kind == 0:
        return random.randrange(-(2**63), 2**63)
    if kind == 1:
        return random.uniform(-1e6, 1e6)
    if kind == 2:
        return "".join(chr(random.randrange(1, 0x3000)) for _ in range(random.randrange(1, 12)))
    if kind == 3:
        return _nested(random)
    return random.choice(VALUES)


def changed(tree: Any, random: Random, most: int = 4) -> Any:
    """Copy a tree with one to `most` faults; each lies at a place of its own."""
    for _ in range(min(random.randint(1, most), random.randint(1, most))):
        tree = _changed(tree, random)
    return tree


def damaged(blob: bytes, random: Random, first: int = 0, last: int | None = None) -> bytes:
    """Change a few bytes from `first` to `last`; now and then cut a part, or repeat one."""
    content = bytearray(blob)
    end = min(len(content), len(content) if last is None else last)
    if first < end:
        for _ in range(random.randrange(8)):
            place = random.randrange(first, end)
            content[place] = (
                random.choice(BYTES) if random.random() < 0.5 else random.randrange(256)
            )
    kind = random.randrange(12)
    if kind == 0:
        del content[random.randrange(len(content) + 1) :]
    elif kind == 1:
        place = random.randrange(len(content) + 1)
        content[place:place] = content[place : place + random.randrange(64)]
    elif kind == 2:
        place = random.randrange(len(content) + 1)
        content[place:place] = random.randbytes(random.randrange(1, 40))
    elif kind == 3:
        place = random.randrange(len(content) + 1)
        del content[place : place + random.randrange(1, 40)]
    return bytes(content)


def as_json(tree: Any, random: Random) -> bytes:
    """Write a tree with faults as JSON; sometimes the text has faults of its own."""
    kind = random.randrange(20)
    if kind == 0:
        return random.choice(
            (b"", b"null", b"7", b'""', b"[]", b"{}", b"NaN", b"9" * 5000, b"\xff")
        )
    text = json.dumps(changed(tree, random) if kind > 2 else tree)
    if kind == 1:
        opened = random.choice(("[", '{"a":', "[{"))
        place = random.choice([0, *(n for n, each in enumerate(text) if each == ":")]) + 1
        return (text[:place] + opened * DEEP).encode() if place > 1 else (opened * DEEP).encode()
    if kind < 6:
        return damaged(text.encode(), random)
    return text.encode() if kind < 19 else text.encode("utf-16")


def as_lines(lines: list[Any], random: Random) -> bytes:
    """Write trees as lines of JSON, one of them with faults."""
    chosen = random.randrange(len(lines))
    written = [json.dumps(line).encode() for line in lines]
    written[chosen] = as_json(lines[chosen], random)
    content = b"\n".join(written) + b"\n"
    return damaged(content, random) if random.random() < 0.1 else content


def _nested(random: Random) -> Any:
    value: Any = 0
    for _ in range(random.choice((2, 10, 200))):
        value = [value] if random.random() < 0.5 else {"a": value}
    return value


def _changed(tree: Any, random: Random) -> Any:
    """Copy a tree with one fault."""
    if isinstance(tree, dict | list) and tree and random.random() < 0.75:
        place = random.choice(list(tree)) if isinstance(tree, dict) else random.randrange(len(tree))
        copied: Any = dict(tree) if isinstance(tree, dict) else list(tree)
        kind = random.randrange(10)
        if kind == 0:
            del copied[place]
        elif kind == 1 and isinstance(copied, dict):
            copied[str(fault(random))] = copied[place]
        elif kind == 1:
            copied.insert(place, random.choice(copied))
        else:
            copied[place] = _changed(copied[place], random)
        return copied
    kind = random.randrange(10)
    if kind == 0:
        return [tree]
    if kind == 1:
        return {"a": tree}
    if kind == 2 and isinstance(tree, str):
        return damaged(tree.encode("utf-8", "replace"), random).decode("utf-8", "replace")
    if kind == 3 and isinstance(tree, int | float) and abs(tree) < 2**64:
        return random.choice((-tree, str(tree), tree + 1, tree * 1000, tree / 3 % 1e9))
    return fault(random)
