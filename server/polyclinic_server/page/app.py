"""The coordinator's page: what it answers."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from polyclinic.errors import PolyclinicError, RunError
from polyclinic.reporting.heat_map import HeatMap, draw_heat_map
from polyclinic.reporting.results import find_distances
from polyclinic.store.entries import Entry, Publication
from polyclinic.store.journal import database_of
from polyclinic.system.text import clean, clean_lines
from polyclinic.web.gate import Gate, Rules
from polyclinic.web.looking import mark_of
from polyclinic.web.shell import Shell
from polyclinic_server.page.comparing import MOST_COMPARED, Scores, compare
from polyclinic_server.page.curves import draw, draw_together
from polyclinic_server.page.deeds import Deeds
from polyclinic_server.page.metrics import expose
from polyclinic_server.page.watching import Run, Watch

TEMPLATES = Path(__file__).parent / "templates"
LINKS = (("/", "Overview"), ("/hospitals", "Hospitals"), ("/compare", "Compare"), ("/keys", "Keys"))
MOST_KEPT = 32  # rendered pages
MOST_SETTINGS = 200_000  # characters of settings that are shown
MOST_DRAWN = 40  # hospitals whose distances are drawn
STYLE = re.compile(rb"<style>(.*?)</style>", re.DOTALL)
STYLED = re.compile(rb'\sstyle="([^"]*)"')


@dataclass(frozen=True)
class Models:
    """What a run's ledger holds."""

    publications: tuple[Publication, ...] = ()
    entries: tuple[Entry, ...] = ()
    problem: str = ""


class Page:
    """The page of one coordinator.

    Args:
        watch: What is shown.
        deeds: What may be done.
        rules: Who may read and act.
    """

    def __init__(self, watch: Watch, deeds: Deeds, rules: Rules) -> None:
        self._watch, self._deeds = watch, deeds
        self._kept: dict[str, tuple[str, str]] = {}
        self._scores = Scores()
        self._shell = Shell("coordinator", rules, [TEMPLATES], lambda: watch.view.version, LINKS)
        self._shell.environment.filters |= {"clean": clean}

    def app(self) -> Gate:
        """Make what answers."""
        own = [
            Route("/", self._overview, methods=["GET"]),
            Route("/hospitals", self._hospitals, methods=["GET"]),
            Route("/compare", self._compare, methods=["GET"]),
            Route("/keys", self._keys, methods=["GET"]),
            Route("/runs/{name}", self._run, methods=["GET"]),
            Route("/runs/{name}/report", self._report, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
        ]
        return self._shell.app([*own, *self._deeds.routes()])

    def _overview(self, _request: Request) -> Response:
        return self._rendered("overview.html.j2", "/")

    def _hospitals(self, _request: Request) -> Response:
        return self._rendered("hospitals.html.j2", "/hospitals")

    def _rendered(self, template: str, path: str) -> Response:
        """Answer with a page that is the same for everybody until something changes."""
        view = self._watch.view
        return self._kept_or(
            path,
            view.version,
            lambda: self._shell.render(template, path, view=view, deeds=self._deeds),
        )

    def _run(self, request: Request) -> Response:
        run = self._find(request)
        folder = run.following.folder.path
        files = (folder / "report.html", folder / "config.yaml", *(folder / "ledger").glob("*"))
        sign = f"{run.state} {run.following.version} {[mark_of(each) for each in files]}"
        return self._kept_or(request.url.path, sign, lambda: self._render_run(run, folder))

    def _compare(self, request: Request) -> Response:
        """Answer with runs side by side; those that are not there are left out."""
        names = list(dict.fromkeys(request.query_params.getlist("run")))
        opened = (self._watch.open(name) for name in names[: 2 * MOST_COMPARED])
        chosen = [run for run in opened if run is not None][:MOST_COMPARED]
        taken = {run.name for run in chosen}
        comparison = compare(chosen, self._scores) if len(chosen) > 1 else None
        with self._watch.lock:
            return self._shell.page(
                "compare.html.j2",
                "/compare",
                chosen=chosen,
                others=[run for run in self._watch.view.runs if run.name not in taken],
                most=MOST_COMPARED,
                comparison=comparison,
                charts=_draw_all(chosen) if comparison else (),
            )

    def _kept_or(self, path: str, sign: str, render: Callable[[], str]) -> Response:
        """Answer with what was rendered before, if its sign is the same; else render it."""
        known, text = self._kept.get(path, ("", ""))
        if known != sign:
            with self._watch.lock:
                text = render()
                while len(self._kept) >= MOST_KEPT:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[path] = (sign, text)
        return HTMLResponse(text)

    def _render_run(self, run: Run, folder: Path) -> str:
        return self._shell.render(
            "run.html.j2",
            "/",
            run=run,
            follow=run.following,
            charts=_draw_both(run),
            distances=draw_distances(run),
            models=read_models(folder / "ledger"),
            settings=_read_settings(folder / "config.yaml"),
            has_report=(folder / "report.html").is_file(),
            deeds=self._deeds,
        )

    def _report(self, request: Request) -> Response:
        """Answer with the finished report; its styles are named by their hashes."""
        path = self._find(request).following.folder.path / "report.html"
        try:
            page = path.read_bytes()
        except OSError as error:
            raise HTTPException(404, "This run has no report yet.") from error
        return Response(
            page,
            media_type="text/html",
            headers={"content-security-policy": report_policy(page)},
        )

    def _keys(self, _request: Request) -> Response:
        return self._shell.page("keys.html.j2", "/keys", keys=self._deeds.keys(), deeds=self._deeds)

    def _metrics(self, _request: Request) -> Response:
        with self._watch.lock:
            text = expose(self._watch.view)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    def _find(self, request: Request) -> Run:
        run = self._watch.open(request.path_params["name"])
        if run is None:
            raise HTTPException(404, "There is no run of that name.")
        return run


def read_models(folder: Path) -> Models:
    """Read what a ledger holds; nothing where there is none."""
    try:
        if database_of(folder) is None:
            return Models()
        from polyclinic.store.ledger import Ledger  # loads torch, which few pages need

        with Ledger.open(folder, create=False) as ledger:
            return Models(tuple(ledger.publications()), tuple(ledger.entries()))
    except PolyclinicError as error:
        return Models(problem=clean_lines(error))


def report_policy(page: bytes) -> str:
    """Return the policy under which a report is shown: its own styles, its own pictures, no more.

    Args:
        page: The report, as `polyclinic_server.reports.page` writes it.
    """
    blocks = STYLE.findall(page)
    inline = list(dict.fromkeys(STYLED.findall(page)))
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(each).digest()).decode()}'"
        for each in [*blocks, *inline]
    )
    styles = f"{hashes} 'unsafe-hashes'" if inline else hashes
    return (
        f"default-src 'none'; style-src {styles or chr(39) + 'none' + chr(39)}; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox"
    )


def draw_distances(run: Run) -> list[tuple[str, HeatMap | None]]:
    """Draw how far hospitals are from each other; nothing where run.json is damaged."""
    state = run.following.state
    try:
        found = find_distances(run.following.folder.path, state) if state else []
    except RunError:
        return []
    few = [each for each in found if len(each.sites) > 1]
    return [
        (
            each.measured,
            draw_heat_map(each.sites, each.distances, each.later)
            if len(each.sites) <= MOST_DRAWN
            else None,
        )
        for each in few
    ]


def _draw_all(runs: Sequence[Run]) -> Sequence[Any]:
    followings = [run.following for run in runs]
    titles = {"loss": "Training loss, lower is better", "score": "Validation, higher is better"}
    return [(title, draw_together(followings, what, title)) for what, title in titles.items()]


def _draw_both(run: Run) -> Sequence[Any]:
    state = run.following.state
    score = state.score_name if state else "score"
    return (
        ("Training loss", draw(run.following, "loss", "Training loss, lower is better")),
        (score, draw(run.following, "score", f"{score} on validation, higher is better")),
    )


def _read_settings(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return clean_lines(file.read(MOST_SETTINGS))
    except OSError:
        return ""
