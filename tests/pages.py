"""HTML pages for tests: tags, rows of tables, text of elements."""

import re
from html.parser import HTMLParser
from pathlib import Path

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
VOID = {"meta", "link", "img", "br", "hr", "input", "line", "circle", "rect", "path", "polyline"}
Attributes = dict[str, str | None]


class Page(HTMLParser):
    """A page.

    Attributes:
        source: The HTML.
        tags: Names of tags with their attributes.
        rows: Cells of the rows of all tables, but the one of the worst hospitals.
        standing: Cells of the rows of that table.
        text: All text.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, Attributes]] = []
        self.rows: list[list[str]] = []
        self.standing: list[list[str]] = []
        self.text = ""
        self._open: list[tuple[str, Attributes]] = []
        self._pieces: list[tuple[list[tuple[str, Attributes]], str]] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(self.tags[-1])
        if tag == "tr":
            self._table.append([])
        if tag in {"td", "th"}:
            self._table[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text += data
        self._pieces.append((list(self._open), data))
        if any(tag in {"td", "th"} for tag, _ in self._open):
            self._table[-1][-1] += data.strip()

    @property
    def _table(self) -> list[list[str]]:
        """Rows of which the open table is."""
        inside = any(found.get("class") == "standing" for _, found in self._open)
        return self.standing if inside else self.rows

    def all(self, name: str) -> list[str]:
        """Text of every element of a tag (`h2`) or of a class (`.lead`), spaces made single."""
        found: dict[int, str] = {}
        for opened, data in self._pieces:
            for tag in opened:
                classes = (tag[1].get("class") or "").split()
                if name == tag[0] or (name.startswith(".") and name[1:] in classes):
                    found[id(tag)] = found.get(id(tag), "") + data
        return [" ".join(text.split()) for text in found.values()]

    def one(self, name: str) -> str:
        """Text of the only element of a tag or of a class."""
        (text,) = self.all(name)
        return text

    def count(self, tag: str, **attributes: str) -> int:
        """Number of tags with these attributes."""
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.tags)

    @property
    def ids(self) -> list[str]:
        """Anchors of the page."""
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]

    def loads(self) -> list[str]:
        """Values of the attributes by which a page loads something."""
        names = {"src", "href", "srcset", "xlink:href"}
        return [str(v) for _, found in self.tags for name, v in found.items() if name in names]

    def is_inert(self) -> bool:
        """Whether it loads nothing, runs nothing, and forbids both."""
        loads = all(value.startswith(("data:image/png;base64,", "#")) for value in self.loads())
        active = {tag for tag, _ in self.tags} & {"script", "link", "iframe", "object"}
        handlers = [name for _, found in self.tags for name in found if name.startswith("on")]
        named = re.search(r"https?://|url\(|@import|<script", self.source)
        forbidden = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        policies = [f["content"] for tag, f in self.tags if tag == "meta" and "http-equiv" in f]
        return loads and not active and not handlers and not named and policies == [forbidden]


def figures(text: str) -> list[str]:
    """Return the numbers of a text with sign and percent, in the order of reading."""
    return re.findall(rf"[+{MINUS}±]?\d+(?:\.\d+)?(?:[ \u00a0]%)?", text)
