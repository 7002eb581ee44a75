"""Pages that live outside `docs/`, and links that lead there.

`<!-- include: CHANGELOG.md -->` on a line of its own is replaced by that file of the repository,
together with the line before it, which tells readers of the repository where that file is.
A link to a file outside `docs/` leads to the page that includes it; if no page does, its text stays
and the link goes, so that the site never points to a file that it does not hold.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
INCLUDE = re.compile(r"^(?:[^#\n][^\n]*\n\n)?<!-- include: (\S+) -->$", re.MULTILINE)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "benchmarks/README.md": "benchmarks.md",
}


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Fill in what a page includes, and mend the links of the page."""
    here = f"docs/{page.file.src_uri}"

    def fill(found: re.Match[str]) -> str:
        text = (ROOT / found[1]).read_text(encoding="utf-8")
        return relink(without_title(text), posixpath.dirname(found[1]), here)

    return INCLUDE.sub(fill, relink(markdown, posixpath.dirname(here), here))


def relink(text: str, folder: str, here: str) -> str:
    """Rewrite the links of a text.

    Args:
        text: Markdown.
        folder: The folder that its links are relative to, from the root of the repository.
        here: The page that the text is shown on, from the root of the repository.
    """

    def mend(found: re.Match[str]) -> str:
        target = found["target"]
        if not target or ":" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in PAGES:
            path = f"docs/{PAGES[path]}"
        if not path.startswith("docs/"):
            return found["text"]
        relative = posixpath.relpath(path, posixpath.dirname(here))
        return f"{found['image']}[{found['text']}]({relative}{found['anchor'] or ''})"

    return LINK.sub(mend, text)


def without_title(text: str) -> str:
    """Drop the first heading: the page that includes a file has one."""
    return re.sub(r"\A# .*\n", "", text)
