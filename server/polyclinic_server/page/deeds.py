"""What may be done on the page: everything is also a command, and writes the journal first."""

import shlex
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from polyclinic.errors import ConfigError
from polyclinic.security.admission_errors import AdmissionRefused
from polyclinic.security.keys import authority_fingerprint, parse_public_key
from polyclinic.security.kit import SITE_NAME, check_site_name
from polyclinic.store.journal import database_of
from polyclinic.web.gate import who_of
from polyclinic.web.shell import read_body
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.registry import Enrolled, Registry, enrol_with_kit
from polyclinic_server.enrolment.service import copy_keys
from polyclinic_server.page.fleet import RunDeeds

Body = Mapping[str, str]
JOURNAL = ".page"  # folder beside the runs, whose journal is used where there are no keys
MOST_REASON = 300
MOST_KEY = 20_000
MOST_SETTINGS = 4000


class Deeds:
    """What may be done.

    Args:
        runs: Folder of the runs.
        authority: Whose kits are made; None without keys.
        run_deeds: What may be done to runs.
    """

    def __init__(self, runs: Path, authority: Authority | None, run_deeds: RunDeeds) -> None:
        self._runs, self._authority, self._run_deeds = runs, authority, run_deeds
        self._registry = Registry(authority.folder if authority else runs / JOURNAL)

    def close(self) -> None:
        """Close the journal."""
        self._registry.close()

    def refuse(self, refusal: AdmissionRefused, who: str) -> None:
        """Write a refused request into the journal."""
        self._registry.note(refusal, who)

    @property
    def enrols(self) -> bool:
        """Whether hospitals can be enrolled."""
        return self._authority is not None

    @property
    def stops(self) -> bool:
        """Whether a run can be stopped."""
        return self._run_deeds.stop is not None

    @property
    def resumes(self) -> bool:
        """Whether a run can be resumed."""
        return self._run_deeds.resume is not None

    @property
    def starts(self) -> bool:
        """Whether a run can be started."""
        return self._run_deeds.start is not None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the authority."""
        return authority_fingerprint(self._authority.ca()) if self._authority else ""

    def keys(self) -> list[Enrolled]:
        """Return every key ever enrolled."""
        return self._registry.everybody() if self._authority else []

    def routes(self) -> list[Route]:
        """Return what the page answers."""
        deeds: dict[str, Callable[[Body, str], Body]] = {
            "enrol": self._enrol,
            "revoke": self._revoke,
            "withdraw": self._withdraw,
            "start": self._start,
            "stop": partial(self._to_run, "stop"),
            "resume": partial(self._to_run, "resume"),
        }
        posts = [
            Route(f"/deeds/{name}", _answering(deed), methods=["POST"])
            for name, deed in deeds.items()
        ]
        return [*posts, Route("/kits/{name}.kit.json", self._kit, methods=["GET"])]

    def _enrol(self, body: Body, who: str) -> Body:
        """Enrol a public key, and write the kit."""
        authority = self._need_keys()
        name, text = _given(body, "name"), _given(body, "key", MOST_KEY)
        check_site_name(name, "Name")
        try:
            key = parse_public_key(text.encode())
        except ValueError as error:
            raise ConfigError(
                "This is not a hospital's public key. Paste the line of its hospital.pub, which "
                "`polyclinic-client keygen` wrote."
            ) from error
        self._registry.record("enrol", name, who)
        path = authority.folder / "kits" / f"{name}.kit.json"
        enrolled = enrol_with_kit(authority, name, key, path)
        copy_keys(authority.folder)
        return {
            "said": f"{name} is enrolled. Compare both fingerprints with the hospital by "
            f"telephone: its key {enrolled.fingerprint}, this coordinator's authority "
            f"{self.fingerprint}. Then send it the kit.",
            "kit": f"/kits/{name}.kit.json",
        }

    def _revoke(self, body: Body, who: str) -> Body:
        authority = self._need_keys()
        name, reason = _given(body, "name"), _given(body, "reason")
        self._registry.record("revoke", name, who, reason)
        revoked = self._registry.revoke(name, reason)
        copy_keys(authority.folder)
        return {"said": f"The key {revoked.fingerprint} of {name} is revoked."}

    def _withdraw(self, body: Body, who: str) -> Body:
        from polyclinic.store.ledger import Ledger
        from polyclinic_server.runs.withdrawal import withdraw

        run, site, reason = _given(body, "run"), _given(body, "name"), _given(body, "reason")
        folder = self._folder(run) / "ledger"
        if database_of(folder) is None:
            raise ConfigError(f"Run {run} has no contributions that could be withdrawn.")
        self._registry.record("withdraw", site, who, f"{run}: {reason}")
        with Ledger.open(folder, create=False) as ledger:
            return {"said": withdraw(ledger, site, reason)}

    def _start(self, body: Body, who: str) -> Body:
        """Start a run; its settings are checked first."""
        if self._run_deeds.start is None:
            raise ConfigError("This page cannot start a run: `polyclinic-server serve --page` can.")
        try:
            settings = shlex.split(_given(body, "settings", MOST_SETTINGS))
        except ValueError as error:
            raise ConfigError("A quotation mark in the settings is not closed.") from error
        self._registry.record("start", "", who, " ".join(settings)[:MOST_REASON])
        run = self._run_deeds.start(settings, body.get("name", "").strip() or None)
        return {"said": f"Run {run} has started."}

    def _to_run(self, deed: str, body: Body, who: str) -> Body:
        run = _given(body, "run")
        do = self._run_deeds.stop if deed == "stop" else self._run_deeds.resume
        if do is None:
            raise ConfigError(f"This page cannot {deed} a run.")
        self._folder(run)
        self._registry.record(deed, "", who, run)
        do(run)
        return {"said": f"Run {run}: {'stopping' if deed == 'stop' else 'starting again'}."}

    def _kit(self, request: Request) -> Response:
        name = request.path_params["name"]
        if self._authority is None or not SITE_NAME.fullmatch(name):
            raise HTTPException(404, "There is no such kit.")
        path = self._authority.folder / "kits" / f"{name}.kit.json"
        if not path.is_file():
            raise HTTPException(404, "There is no such kit.")
        return FileResponse(path, media_type="application/json", filename=path.name)

    def _need_keys(self) -> Authority:
        if self._authority is None:
            raise ConfigError(
                "This coordinator uses no keys. Make them with `polyclinic-server init`."
            )
        return self._authority

    def _folder(self, run: str) -> Path:
        found = {path.parent.name: path.parent for path in self._runs.glob("*/run.json")}
        if run not in found:
            raise ConfigError("There is no run of that name.")
        return found[run]


def _given(body: Body, name: str, longest: int = MOST_REASON) -> str:
    text = body.get(name, "").strip()
    if not text or len(text) > longest:
        raise ConfigError(f"'{name}' is needed, with at most {longest} characters.")
    return text


def _answering(deed: Callable[[Body, str], Body]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        body = await read_body(request)
        return JSONResponse(await run_in_threadpool(deed, body, who_of(request)))

    return answer
