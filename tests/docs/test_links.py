"""Links, lengths of lines, and what every page must have."""

import re
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import DOCS, FENCE, LINK, ROOT, anchors, hook, pages, prose

LONGEST = 100
WORDS = 600  # of the README, without code


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_internal_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: no such file"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}: no such heading"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_lines_are_short(page: Path) -> None:
    # a row of a table, and a link that is longer than a line, cannot be broken
    lines = page.read_text(encoding="utf-8").splitlines()
    long = [
        number
        for number, line in enumerate(lines, 1)
        if len(line) > LONGEST and not line.lstrip().startswith("|") and " " in line.strip()
    ]
    assert not long, f"lines {long}"


def test_the_readme_is_short() -> None:
    text = FENCE.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(text.split()) <= WORDS


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        """YAML whose Python objects are left alone."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    tree = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    listed = set(re.findall(r"[\w./-]+\.md", str(tree["nav"])))
    assert listed == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def test_decisions_have_date_status_and_alternatives() -> None:
    index = (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")
    for page in sorted((DOCS / "decisions").glob("*.md")):
        if page.name == "index.md":
            continue
        text = page.read_text(encoding="utf-8")
        found = re.search(r"^- \*\*Date\*\*: (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
        assert found, page.name
        assert re.search(r"^- \*\*Status\*\*: \w+", text, re.MULTILINE), page.name
        assert re.search(r"^- \*\*Alternatives\*\*: \w+", text, re.MULTILINE), page.name
        assert re.search(rf"^\| {found[1]} \| \[[^\]]+\]\({page.name}\)", index, re.MULTILINE)


def test_citation_has_what_the_format_requires() -> None:
    tree = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(tree)
    assert all("name" in author or "family-names" in author for author in tree["authors"])
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{tree["version"]}"' in project


def test_issue_templates_are_forms() -> None:
    for name in ("bug.yml", "feature.yml"):
        path = ROOT / ".github" / "ISSUE_TEMPLATE" / name
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(tree)
        identities = [part["id"] for part in tree["body"] if part["type"] != "markdown"]
        assert len(identities) == len(set(identities)) >= 3


def test_links_out_of_the_site_lose_their_target_and_keep_their_text() -> None:
    relink = hook("links").relink
    text = (
        "[a](../../conf/x.yaml) [b](../../benchmarks/README.md#c) [d](other.md) [e](https://f.org)"
    )
    assert relink(text, "docs/how-to", "docs/how-to/page.md") == (
        "a [b](../benchmarks.md#c) [d](other.md) [e](https://f.org)"
    )
    assert relink("![p](docs/images/p.svg)", "", "docs/index.md") == "![p](images/p.svg)"


def test_pages_that_the_sources_name_exist() -> None:
    seen = 0
    for folder in ("core", "strategies", "server", "client", "demos", "conf", "docker"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix not in (".py", ".yaml", ".sh", ".Dockerfile", ".j2"):
                continue
            for page in re.findall(r"docs/[\w./-]+\.md", path.read_text(encoding="utf-8")):
                assert (ROOT / page).exists(), f"{path.relative_to(ROOT)}: {page}"
                seen += 1
    assert seen > 5
