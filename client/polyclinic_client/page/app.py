"""The hospital's page: what it answers."""

from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from polyclinic.errors import ConfigError, DataError
from polyclinic.imaging.pictures import label_colours
from polyclinic.system.text import clean, clean_lines
from polyclinic.web.gate import Gate, Rules
from polyclinic.web.shell import Shell, read_body
from polyclinic_client.page.data_check import FIRST, DataCheck
from polyclinic_client.page.gathering import Gathering
from polyclinic_client.page.segmenting import Segmenting
from polyclinic_client.policy.decisions import decide
from polyclinic_client.sent.kinds import WORDS

TEMPLATES = Path(__file__).parent / "templates"
LINKS = (
    ("/", "Here"),
    ("/sent", "What left"),
    ("/data", "Data"),
    ("/models", "Models"),
    ("/segment", "Segment"),
)


class Page:
    """The page of one hospital.

    Args:
        gathering: What is shown.
        check: The data check.
        segmenting: What segments scans.
        rules: Who may read and act.
    """

    def __init__(
        self, gathering: Gathering, check: DataCheck, segmenting: Segmenting, rules: Rules
    ) -> None:
        self._gathering, self._check, self._segmenting = gathering, check, segmenting
        self._shell = Shell("hospital", rules, [TEMPLATES], lambda: gathering.version, LINKS)
        self._shell.environment.filters |= {"clean": clean}
        self._shell.environment.globals |= {"kind_words": WORDS}

    def app(self) -> Gate:
        """Make what answers."""
        return self._shell.app(
            [
                Route("/", self._here, methods=["GET"]),
                Route("/sent", self._sent, methods=["GET"]),
                Route("/data", self._data, methods=["GET"]),
                Route("/models", self._models, methods=["GET"]),
                Route("/pictures/{number:int}/{name}.png", self._picture, methods=["GET"]),
                Route("/segment", self._segment, methods=["GET"]),
                Route("/segmented/{number:int}/{name}.png", self._result, methods=["GET"]),
                Route("/deeds/decide", self._decide, methods=["POST"]),
                Route("/deeds/check", self._start_check, methods=["POST"]),
                Route("/deeds/segment", self._start_segmenting, methods=["POST"]),
                Route("/deeds/stop", self._stop_segmenting, methods=["POST"]),
            ]
        )

    def _here(self, _request: Request) -> Response:
        with self._gathering.lock:
            return self._shell.page(
                "here.html.j2",
                "/",
                statuses=self._gathering.statuses(),
                asked=self._gathering.asked(),
                left=self._gathering.left,
                state=self._gathering.state,
            )

    def _sent(self, _request: Request) -> Response:
        with self._gathering.lock:
            return self._shell.page("sent.html.j2", "/sent", left=self._gathering.left)

    def _models(self, _request: Request) -> Response:
        return self._shell.page("models.html.j2", "/models", models=self._gathering.models())

    def _data(self, _request: Request) -> Response:
        dataset, problem = None, ""
        try:
            dataset = self._check.dataset()
        except DataError as error:
            problem = clean_lines(error)
        return self._shell.page(
            "data.html.j2",
            "/data",
            dataset=dataset,
            problem=problem,
            check=self._check,
            first=list(enumerate(dataset.cases[:FIRST])) if dataset else [],
            colours=label_colours(tuple(dataset.labels)) if dataset else {},
        )

    def _segment(self, _request: Request) -> Response:
        one = self._segmenting
        return self._shell.page(
            "segment.html.j2",
            "/segment",
            one=one,
            says=one.says(),
            scans=one.scans(),
            models=[each.name for each in self._gathering.models()],
            results=[(each, label_colours(each.labels)) for each in one.results],
        )

    def _result(self, request: Request) -> Response:
        return self._drawn(self._segmenting.picture, request)

    def _picture(self, request: Request) -> Response:
        return self._drawn(self._check.picture, request)

    def _drawn(self, draw: Callable[[int, str], bytes | None], request: Request) -> Response:
        try:
            picture = draw(request.path_params["number"], request.path_params["name"])
        except DataError as error:
            raise HTTPException(404, clean_lines(error)) from error
        if picture is None:
            raise HTTPException(404, "There is no such picture.")
        return Response(picture, media_type="image/png")

    async def _decide(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._note, await read_body(request)))

    def _note(self, body: Mapping[str, str]) -> Mapping[str, str]:
        digest, decision = body.get("digest", ""), body.get("decision", "")
        if decision not in ("approve", "refuse") or len(digest) != 64:
            raise ConfigError("'decision' is approve or refuse, and 'digest' names what is asked.")
        reason = body.get("reason", "").strip()
        approved = decision == "approve"
        found = decide(self._gathering.state, digest, approved=approved, reason=reason)
        self._gathering.changed()
        names = ", ".join(clean(each.asked.run) for each in found)
        return {"said": f"{'Approved' if approved else 'Refused'}: {names}."}

    async def _start_segmenting(self, request: Request) -> Response:
        body = await read_body(request)
        models = [each.name for each in self._gathering.models()]
        await run_in_threadpool(
            self._segmenting.start, body.get("scan", ""), body.get("model", ""), models
        )
        self._gathering.changed()
        return JSONResponse({"said": "It has begun."})

    async def _stop_segmenting(self, _request: Request) -> Response:
        await run_in_threadpool(self._segmenting.stop)
        self._gathering.changed()
        return JSONResponse({"said": "It is stopped."})

    async def _start_check(self, request: Request) -> Response:
        body = await read_body(request)
        await run_in_threadpool(self._check.start, body.get("deep") == "on")
        self._gathering.changed()
        return JSONResponse({"said": "The check has begun."})
