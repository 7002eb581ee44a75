"""Who may read a page, and who may act: Host, Origin and token, before anything else is looked at.

A browser sends a page's cookies, and reaches this machine's own addresses, for every web page that
is open in it. So a request must name this host (against DNS rebinding). One that changes anything
must come from this page (`Origin`, `Sec-Fetch-Site`), be JSON, and show the token in its header,
which no browser sends by itself.
"""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from polyclinic.system.listening import join_address
from polyclinic.web.refusals import CrossSite, HostForeign, PageRefused, TokenMissing, TokenWrong
from polyclinic.web.tokens import Token

LOOPBACK = ("127.0.0.1", "localhost", "::1")
READS = ("GET", "HEAD")
OPEN = ("/sign-in", "/static/", "/healthz")  # what a page shows before anybody signs in
BEARER = "Bearer "
MOST_BODY = 64 * 1024  # bytes of a request
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def who_of(request: Request) -> str:
    """Return the address of whoever sent a request."""
    return request.client.host if request.client else "somebody"


@dataclass(frozen=True)
class Rules:
    """Who may do what on a page.

    Attributes:
        names: Names and addresses under which the page is served.
        port: Its port.
        secure: Whether it is served with TLS.
        token: What checks the token.
        closed: Whether reading needs the token, too.
        note: Told each refusal and who was refused.
    """

    names: tuple[str, ...]
    port: int
    secure: bool
    token: Token
    closed: bool
    note: Callable[[PageRefused, str], None] = field(default=lambda _refusal, _who: None)

    @property
    def scheme(self) -> str:
        """Return https or http."""
        return "https" if self.secure else "http"

    @property
    def cookie(self) -> str:
        """Name of the cookie; cookies of other ports of a host must not replace it."""
        return f"__Host-polyclinic-{self.port}" if self.secure else f"polyclinic-{self.port}"

    def hosts(self) -> set[str]:
        """Return what the header `Host` may say."""
        usual = 443 if self.secure else 80
        found = {join_address(name, self.port) for name in self.names}
        if self.port == usual:
            found |= {join_address(name, 0).removesuffix(":0") for name in self.names}
        return found

    def judge(self, request: Request) -> PageRefused | None:
        """Return why a request is refused; None if it is not."""
        who = who_of(request)
        what = f"{request.method} {request.url.path}"
        host = request.headers.get("host", "").lower()
        if host not in self.hosts():
            return HostForeign(who=who, what=host)
        if request.method not in READS:
            return self._judge_change(request, host, who, what)
        if self.closed and not request.url.path.startswith(OPEN):
            given = request.headers.get("authorization", "")
            shown = self.token.may_read(request.cookies.get(self.cookie, ""))
            if not shown and not self.token.fits(given.removeprefix(BEARER)):
                return TokenMissing(who=who, what=what)
        return None

    def _judge_change(self, request: Request, host: str, who: str, what: str) -> PageRefused | None:
        headers = request.headers
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "same-origin")
        plain = headers.get("content-type", "").partition(";")[0].strip() != "application/json"
        if origin not in (None, f"{self.scheme}://{host}") or site != "same-origin" or plain:
            return CrossSite(who=who, what=what)
        given = headers.get("authorization", "")
        if not given.startswith(BEARER):
            return TokenMissing(who=who, what=what)
        if not self.token.fits(given.removeprefix(BEARER)):
            return TokenWrong(who=who, what=what)
        return None


class Gate:
    """Middleware that lets through what the rules allow, and sets the headers of every answer.

    Args:
        app: What answers.
        rules: Who may do what.
        leave: Ends the answers that would go on for ever.
    """

    def __init__(self, app: ASGIApp, rules: Rules, leave: Callable[[], None]) -> None:
        self._app, self._rules, self.leave = app, rules, leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def send_safely(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                more = [(name.encode(), text.encode()) for name, text in HEADERS.items()]
                message["headers"] = [
                    *message["headers"], *(pair for pair in more if pair[0] not in given)
                ]  # fmt: skip
            await send(message)

        request = Request(scope)
        refusal = self._rules.judge(request)
        if refusal is None and int(request.headers.get("content-length", 0) or 0) > MOST_BODY:
            await PlainTextResponse("too large", 413)(scope, receive, send_safely)
            return
        if refusal is None:
            await self._app(scope, receive, send_safely)
            return
        who = who_of(request)
        if not isinstance(refusal, TokenMissing) or request.method not in READS:
            self._rules.note(refusal, who)
        await self._answer(refusal, request)(scope, receive, send_safely)

    def _answer(self, refusal: PageRefused, request: Request) -> Response:
        wants_page = "text/html" in request.headers.get("accept", "")
        if isinstance(refusal, TokenMissing) and request.method in READS and wants_page:
            return RedirectResponse("/sign-in", 303)
        return JSONResponse({"error": str(refusal)}, refusal.status)
