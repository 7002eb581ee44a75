"""A hospital in the process of a simulation: what its worker and its fine-tuning do, by turns.

`polyclinic.simulation` finds it by the entry point `polyclinic.sides`. Nothing is started; the
code that answers and that trains is a hospital's own.
"""

from pathlib import Path

from flwr.app import Context, Message, RecordDict

from polyclinic_client.fleet.app import app
from polyclinic_client.policy.policy import keep_policy
from polyclinic_client.sent.ways import LEAVES, NOT_AT_ALL
from polyclinic_client.site.fine_tuning import work
from polyclinic_client.site.open_sites import close_site, open_site


class SimulatedHospital:
    """One hospital; it is opened with the first message.

    Args:
        site: Name at the coordinator.
        data: Folder with dataset.json.
        state: Folder where the hospital keeps its models and its outbox.
        mode: "train"; or "describe", for a hospital that only says what its images are like.
    """

    def __init__(self, site: str, data: Path, state: Path, mode: str = "train") -> None:
        self._site, self._data, self._state, self._mode = site, data, state, mode
        self._config: dict[str, str | int | float | bool] = {
            "site": site,
            "data": str(data),
            "state": str(state),
            "mode": mode,
            LEAVES: NOT_AT_ALL,
        }
        self._opened = False

    def answer(self, message: Message) -> Message:
        """Do what a message asks, as `polyclinic_client.fleet.worker` does.

        Raises:
            Exception: Whatever goes wrong.
        """
        context = Context(
            run_id=message.metadata.run_id,
            node_id=message.metadata.dst_node_id,
            node_config=self._config,
            state=RecordDict(),
            run_config={},
        )
        if not self._opened:  # whoever simulates is every hospital, and says what leaves
            keep_policy(self._state, min_subjects=1)
        reply = app(message=message, context=context)
        self._opened = True
        return reply

    def work(self) -> None:
        """Fine-tune, if the outbox says that there is something to do.

        Raises:
            PolyclinicError: Whatever is wrong with data or settings; the outbox remembers it.
        """
        if self._opened and self._mode == "train":
            work(self._site, self._data, self._state, open_site(self._config))

    @property
    def cached_bytes(self) -> int:
        """Memory that prepared cases take."""
        return open_site(self._config).cached_bytes if self._opened else 0

    def drop_cache(self) -> None:
        """Give that memory back; the cases are prepared again when they are needed."""
        if self._opened:
            open_site(self._config).drop_cache()

    def close(self) -> None:
        """Forget the hospital; its folders stay."""
        close_site(self._config)
        self._opened = False
