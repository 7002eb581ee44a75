"""The page is served: beside a run, or alone over a folder of runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from polyclinic.config.schemas import DeploymentConfig
from polyclinic.errors import ConfigError
from polyclinic.federation.run_folder import RunFolder
from polyclinic.web.gate import LOOPBACK, Rules
from polyclinic.web.serving import Address, Certificate, serving
from polyclinic.web.tokens import Token, keep_token, make_token, read_token
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.endpoint import Endpoint, endpoint_of, is_loopback
from polyclinic_server.fleet.server import FleetServer
from polyclinic_server.page.app import Page
from polyclinic_server.page.deeds import JOURNAL, Deeds
from polyclinic_server.page.fleet import Fleet, RunDeeds, SnapshotFleet
from polyclinic_server.page.run_processes import deeds_of_this_run
from polyclinic_server.page.watching import Watch
from polyclinic_server.page.webhook import Webhook
from polyclinic_server.runs.coordinator import PageOfRun
from polyclinic_server.service.desk import Desk
from polyclinic_server.service.snapshots import describe_hospitals

TOKEN = "page.token"


@dataclass(frozen=True)
class PageOptions:
    """Where a page is served.

    Attributes:
        address: PORT or HOST:PORT.
        webhook: Address that is told when a run ends or fails; None tells nobody.
    """

    address: str
    webhook: str | None = None


@contextmanager
def show_page(
    options: PageOptions,
    runs: Path,
    authority: Authority | None,
    say: Callable[[str], None],
    run_deeds: RunDeeds,
    *,
    fleet: Fleet | None = None,
) -> Iterator[Watch]:
    """Serve the page inside the `with` block.

    Args:
        options: Where.
        runs: Folder of the runs.
        authority: Whose certificate and keys are used; None without keys.
        say: Told the page's address.
        run_deeds: What may be done to runs.
        fleet: Who serves the hospitals, if that is known already; `Watch.attach` takes one later.

    Raises:
        BindFailed: Nothing can listen there.
        ConfigError: Other machines would be served without TLS.
    """
    address = Address.parse(options.address)
    at_home = is_loopback(address.host)
    if not at_home and authority is None:
        raise ConfigError(
            f"--page {options.address}: other machines are served with TLS alone. Make "
            "certificates with `polyclinic-server init`, or leave out the host."
        )
    with ExitStack() as stack:
        listener = address.listen()
        stack.callback(listener.close)
        deeds = Deeds(runs, authority, run_deeds)
        stack.callback(deeds.close)
        fresh, token = choose_token(runs, authority)
        hook = stack.enter_context(Webhook(options.webhook)) if options.webhook else None
        watch = Watch(runs, fleet, hook.tell if hook else lambda _run, _before: None)
        stack.enter_context(watch)
        names = LOOPBACK if at_home else (address.host, *LOOPBACK, *authority_names(authority))
        rules = Rules(
            names=names,
            port=int(listener.getsockname()[1]),
            secure=not at_home,
            token=token,
            closed=not at_home,
            note=deeds.refuse,
        )
        app = Page(watch, deeds, rules).app()
        certificate = None if at_home else certificate_of(authority)
        shown = stack.enter_context(serving(app, listener, certificate))
        say(f"page: {shown}")
        if fresh:
            say(f"sign in: {shown}sign-in#{fresh}")
        yield watch


def authority_names(authority: Authority | None) -> tuple[str, ...]:
    """Return the names in the server's certificate, under which browsers reach it."""
    return tuple(name.lower() for name in authority.hosts) if authority else ()


def certificate_of(authority: Authority | None) -> Certificate | None:
    """Return the coordinator's certificate, which browsers trust by the authority's ca.crt."""
    if authority is None:
        return None
    return Certificate(authority.folder / "server.crt", authority.folder / "server.key")


def token_file(runs: Path, authority: Authority | None) -> Path:
    """Return where the hash of a token is kept."""
    return (authority.folder if authority else runs / JOURNAL) / TOKEN


def choose_token(runs: Path, authority: Authority | None) -> tuple[str, Token]:
    """Return the kept token; or a new one for this time alone, with its text.

    Raises:
        ConfigError: What was kept is damaged.
    """
    kept = read_token(token_file(runs, authority))
    return ("", kept) if kept else make_token()


def renew_token(runs: Path, authority: Authority | None) -> str:
    """Draw a token that stays, and keep its hash; return its text, which is shown once."""
    return keep_token(token_file(runs, authority))


def page_of_run(options: PageOptions, say: Callable[[str], None]) -> PageOfRun:
    """Return what serves the page of `polyclinic-server run`."""

    @contextmanager
    def show(folder: RunFolder, place: Endpoint) -> Iterator[Callable[[FleetServer], None]]:
        deeds, began = deeds_of_this_run(folder.name), time.time()
        with show_page(options, folder.path.parent, place.authority, say, deeds) as watch:

            def attach(server: FleetServer) -> None:
                watch.attach(SnapshotFleet(lambda: describe_hospitals(server, (), began)))

            yield attach

    return show


def page_of_service(
    options: PageOptions, deployment: DeploymentConfig, desk: Desk, say: Callable[[str], None]
) -> AbstractContextManager[Watch]:
    """Return what serves the page of `polyclinic-server serve`."""

    def resume(name: str) -> None:
        desk.resume(name)

    authority = endpoint_of(deployment).authority
    deeds, fleet = RunDeeds(desk.stop, resume, desk.start), SnapshotFleet(desk.hospitals)
    return show_page(options, Path(deployment.runs), authority, say, deeds, fleet=fleet)
