"""The look at weights that arrive to be trained with: `polyclinic_client.policy.imprint`."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from polyclinic.federation.records import Order
from polyclinic.learning.state_dict import StateDict, shared_names, unpack
from polyclinic.system.text import json_digest
from polyclinic_client.policy.imprint import check_imprint
from polyclinic_client.policy.policy import read_policy


class Guard:
    """A hospital's guard.

    Args:
        state: The hospital's state folder: its policy says whether there is a guard.
        build: Builds the network that an order asks for.
    """

    def __init__(self, state: Path, build: Callable[[Order], nn.Module]) -> None:
        self._state, self._build = state, build
        self._layouts: dict[str, tuple[StateDict, list[str]]] = {}  # building takes long: once

    def check(self, state: StateDict) -> None:
        """Refuse weights that are made to hold images.

        Raises:
            NotAllowed: They are.
        """
        if read_policy(self._state).imprint_guard:
            check_imprint(state)

    def check_packed(self, order: Order, weights: Tensor) -> None:
        """Refuse weights that are made to hold images, as they travel in rounds.

        Raises:
            NotAllowed: They are.
            WeightsInvalid: They are of another network, or not finite.
        """
        self.check(unpack(weights, *self._layout(order)))

    def _layout(self, order: Order) -> tuple[StateDict, list[str]]:
        """Return the shapes of a network's tensors, and the names of those that travel."""
        asked = [dict(order.names), dict(order.settings), order.method, dict(order.plugins)]
        key = json_digest([*asked, order.personal, dict(order.digests)])
        if key not in self._layouts:
            network = self._build(order)
            shapes = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
            self._layouts[key] = shapes, shared_names(network, order.personal)
        return self._layouts[key]
