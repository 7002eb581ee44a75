"""The hospital's page is served, on this machine alone."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from polyclinic.errors import ConfigError
from polyclinic.web.gate import LOOPBACK, Rules
from polyclinic.web.refusals import PageRefused
from polyclinic.web.serving import Address, serving
from polyclinic.web.tokens import make_token
from polyclinic_client.page.app import Page
from polyclinic_client.page.data_check import DataCheck
from polyclinic_client.page.gathering import Gathering
from polyclinic_client.page.scan_task import SegmentService
from polyclinic_client.page.segmenting import Segmenting

LOG = "page.log"  # in the state folder: refused requests
MOST_LOG = 2**20  # bytes


@contextmanager
def show_page(
    address: str,
    state: Path,
    data: Path | None,
    say: Callable[[str], None],
    scans: Sequence[Path] = (),
    service: SegmentService | None = None,
) -> Iterator[Gathering]:
    """Serve the page inside the `with` block.

    Reading needs the token, too: there are pictures of patients on it, and other users may work on
    this machine.

    Args:
        address: PORT, or HOST:PORT with an address of this machine alone.
        state: The hospital's state folder.
        data: Folder with dataset.json; None shows no data.
        say: Told the page's address, with the token.
        scans: Folders of scans that can be segmented, besides the data's cases.
        service: A segmentation service that can be asked.

    Raises:
        BindFailed: Nothing can listen there.
        ConfigError: Other machines would be served.
    """
    where = Address.parse(address)
    if where.host not in LOOPBACK:
        raise ConfigError(
            f"--page {address}: a hospital's page is served on its own machine alone. Leave out "
            "the host."
        )
    with ExitStack() as stack:
        listener = where.listen()
        stack.callback(listener.close)
        text, token = make_token()
        gathering = stack.enter_context(Gathering(state))
        rules = Rules(
            names=LOOPBACK,
            port=int(listener.getsockname()[1]),
            secure=False,
            token=token,
            closed=True,
            note=_Notes(state / LOG).note,
        )
        segmenting = Segmenting(state, data, scans, service, gathering.changed)
        stack.callback(segmenting.stop)
        page = Page(gathering, DataCheck(data, gathering.changed), segmenting, rules)
        shown = stack.enter_context(serving(page.app(), listener))
        say(f"page: {shown}sign-in#{text}")
        yield gathering


class _Notes:
    """Lines about refused requests; a file that is full gets no more."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def note(self, refusal: PageRefused, _who: str) -> None:
        line = json.dumps({"time": time.time(), "code": refusal.code, "told": refusal.told()})
        with self._lock, suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            if file.tell() < MOST_LOG:
                file.write(line + "\n")
