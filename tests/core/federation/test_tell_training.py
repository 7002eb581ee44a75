"""Progress of training, as a hospital's status says it."""

from typing import Any

import pytest

from polyclinic.federation import site as sites
from polyclinic.federation.records import Order

ORDER = Order("run", "arm", 0, 5, "none", "1", {})


class Speaking:
    """A site that remembers what it said."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def say(self, order: Order, doing: str, *, force: bool = False, **details: Any) -> None:
        assert order == ORDER and doing == "training"
        self.said.append(details)


def test_seconds_a_step_and_time_left_do_not_count_the_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = iter([100.0, 102.0, 104.5])
    monkeypatch.setattr(sites.time, "monotonic", lambda: next(moments))
    site = Speaking()
    tell = sites.tell_training(site, ORDER)  # type: ignore[arg-type]
    for step in (4, 5, 7):  # goes on after three steps that an earlier process made
        tell(step, 10, 0.5)
    assert site.said[0] == {"step": 4, "steps": 10, "loss": 0.5}
    assert site.said[1] == {"step": 5, "steps": 10, "loss": 0.5, "step_s": 2.0, "left_s": 10.0}
    assert site.said[2]["step_s"] == 1.5 and site.said[2]["left_s"] == 4.5
