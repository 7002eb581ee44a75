"""What surrounds every page: files, signing in, the stream of changes, and the gate before it all.

A page is rendered here, whole, by Jinja, which escapes everything. Its script fetches the page
again when something changed, and puts its parts in place: no text of a hospital ever becomes code.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from polyclinic.errors import PolyclinicError
from polyclinic.reporting.page import make_environment
from polyclinic.system.text import clean_lines, parse_json
from polyclinic.web.gate import MOST_BODY, Gate, Rules
from polyclinic.web.live import Changes

HERE = Path(__file__).parent
STATIC = HERE / "static"


class Shell:
    """The shell of one page.

    Args:
        title: What the page is of.
        rules: Who may do what.
        templates: Folders of the page's own templates.
        changed: Returns what changes with everything that the page shows.
        links: Entries of the navigation: address and words.
    """

    def __init__(
        self,
        title: str,
        rules: Rules,
        templates: Sequence[Path],
        changed: Callable[[], str],
        links: Sequence[tuple[str, str]],
    ) -> None:
        self._rules = rules
        self._changes = Changes(changed)
        self.environment: Environment = make_environment(*templates, HERE / "templates")
        self.environment.filters["utc"] = show_utc
        self.environment.globals |= {
            "site_title": title,
            "links": tuple(links),
            "version": version("polyclinic"),
            "changed": changed,
        }

    def page(self, template: str, path: str, status: int = 200, **values: Any) -> Response:
        """Render a page; `path` marks its place in the navigation."""
        return HTMLResponse(self.render(template, path, **values), status)

    def render(self, template: str, path: str, **values: Any) -> str:
        """Render a page as text."""
        return self.environment.get_template(template).render(path=path, **values)

    def app(self, routes: Sequence[BaseRoute]) -> Gate:
        """Make what answers: the page's own routes, and those of the shell."""
        own = [
            Route("/sign-in", self._show_sign_in, methods=["GET"]),
            Route("/session", self._sign_in, methods=["POST"]),
            Route("/changes", self._changes.respond, methods=["GET"]),
            Route("/healthz", _say_well, methods=["GET"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        handlers: Mapping[Any, Any] = {
            HTTPException: self._explain,
            PolyclinicError: _explain_error,
        }
        inside = Starlette(routes=[*routes, *own], exception_handlers=handlers)
        return Gate(inside, self._rules, self._end_streams)

    def _end_streams(self) -> None:
        self._changes.over = True

    def _show_sign_in(self, _request: Request) -> Response:
        return self.page("sign_in.html.j2", "/sign-in")

    def _sign_in(self, _request: Request) -> Response:
        """Give a cookie; the gate has seen the token."""
        answer = JSONResponse({"ok": True})
        answer.set_cookie(
            self._rules.cookie,
            self._rules.token.let_in(),
            httponly=True,
            samesite="strict",
            secure=self._rules.secure,
        )
        return answer

    def _explain(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return self.page("error.html.j2", "", error.status_code, problem=error.detail)
        return JSONResponse({"error": error.detail}, error.status_code)


def show_utc(seconds: float) -> str:
    """Write a moment, in seconds since 1970, for who has no script that says how long ago it is."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return "at an unknown time"


def _explain_error(_request: Request, error: Exception) -> Response:
    """Tell what was wrong with a deed; the error's text names the remedy."""
    return JSONResponse({"error": clean_lines(error)}, 409)


def _say_well(_request: Request) -> Response:
    return PlainTextResponse("ok")


async def read_body(request: Request) -> Mapping[str, str]:
    """Read a request's body: a JSON object of texts, of a bounded size.

    Raises:
        HTTPException: It is something else.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY:
            raise HTTPException(413, "The request is too large.")
        parts.append(part)
    return parse_body(b"".join(parts))


def parse_body(body: bytes) -> Mapping[str, str]:
    """Read a JSON object of texts.

    Raises:
        HTTPException: It is something else.
    """
    try:
        values = parse_json(body)
    except ValueError as error:
        raise HTTPException(400, "The request is no JSON.") from error
    if not isinstance(values, dict) or not all(isinstance(each, str) for each in values.values()):
        raise HTTPException(400, "The request is no object of texts.")
    return values
