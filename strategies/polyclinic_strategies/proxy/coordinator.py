"""The deformation proxy at the coordinator: rounds of averaging, then the files of its parts."""

from pathlib import Path

from torch import nn

from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.federation.jobs import build_network
from polyclinic.federation.records import Order
from polyclinic_strategies.averaging.coordinator import AveragingCoordinator
from polyclinic_strategies.proxy.parts import write_parts
from polyclinic_strategies.proxy.system import ProxySystem


class ProxyCoordinator(AveragingCoordinator):
    """Coordinator of a run that trains the deformation proxy's networks.

    Args:
        config: Configuration of the strategy.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, finish=self._write_parts)
        self._labels = config.data.labels

    def check(self) -> None:
        """Refuse networks that are not the deformation proxy's.

        Raises:
            ConfigError: Another model is configured, or another task than a segmentation.
        """
        super().check()
        data = self._config.data
        if data.task != "segmentation":
            raise ConfigError(
                f"A proxy's answer is a label map of classes, and data.task is {data.task}: choose "
                "data=proxy_brain, or other data of data.task=segmentation."
            )
        if not isinstance(build_network(self._config), ProxySystem):
            raise ConfigError(
                "strategy=proxy trains the deformation proxy's networks: add model=proxy "
                "data=proxy_brain training=proxy."
            )

    def _write_parts(self, network: nn.Module, order: Order, folder: Path) -> None:
        """Write the file for hospitals, and the one for the segmentation service."""
        assert isinstance(network, ProxySystem)
        write_parts(network, self._labels, order.settings, folder)
