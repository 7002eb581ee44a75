"""A page of one file with the tables and pictures of the attacks."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto;
padding: 0 1em; color: #222; background: #fff; } table { border-collapse: collapse; margin: 1em 0; }
th, td { text-align: left; padding: .25em .8em; border-bottom: 1px solid #ddd; }
td + td { text-align: right; } img { image-rendering: pixelated; } figcaption { color: #555; }"""
ZOOM, GAP = 3, 4


def picture(rows: Sequence[Tensor]) -> str:
    """Return rows of images, (count, 1, height, width) each, as the source of an <img>."""
    side = int(rows[0].shape[-1]) * ZOOM
    widest = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (side + GAP), widest * (side + GAP)), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            values = (image[0].clamp(0, 1).numpy() * 255).astype(np.uint8)
            large = values.repeat(ZOOM, 0).repeat(ZOOM, 1)
            top, left = y * (side + GAP), x * (side + GAP)
            canvas[top : top + side, left : left + side] = large
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return an HTML table."""
    heads = "".join(f"<th>{escape(key)}</th>" for key in rows[0])
    lines = [
        "<tr>" + "".join(f"<td>{escape(shown(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{heads}</tr>{''.join(lines)}</table>"


def shown(value: object) -> str:
    """Write a value of a table."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def write_page(
    path: Path,
    sections: Sequence[tuple[str, str, Sequence[Mapping[str, object]], Sequence[Tensor]]],
) -> None:
    """Write the page.

    Args:
        path: The file.
        sections: Title, sentences, rows of a table, and rows of images, each.
    """
    parts = [f"<!doctype html><meta charset='utf-8'><title>Attacks</title><style>{STYLE}</style>"]
    parts.append("<h1>Attacks on updates and models</h1>")
    for title, words, rows, images in sections:
        parts.append(f"<h2>{escape(title)}</h2><p>{escape(words)}</p>{table(rows)}")
        if images:
            parts.append(
                f"<figure><img alt='{escape(title)}' src='{picture(images)}'><figcaption>First row:"
                " the images. Then a row for each line of the table.</figcaption></figure>"
            )
    path.write_text("\n".join(parts), encoding="utf-8")
