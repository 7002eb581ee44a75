"""Merging's part at a hospital: the common task, restoration, and statistics of layers."""

from dataclasses import replace
from typing import Any

from torch import nn

from polyclinic.config.schemas import ShiftsConfig
from polyclinic.errors import ConfigError
from polyclinic.federation.hospital import CommonTask
from polyclinic.federation.records import Order
from polyclinic.federation.site import Site
from polyclinic.learning.loading.samples import training_loader
from polyclinic_strategies.merging.layer_statistics import LAYER_STATISTICS
from polyclinic_strategies.merging.restore import fine_tune, recalibrate, several_together


class MergingHospital(CommonTask):
    """Hospital whose contribution is a task vector, and which restores merged models."""

    def __init__(self) -> None:
        super().__init__(LAYER_STATISTICS)

    def make_ready(self, site: Site, order: Order, network: nn.Module) -> dict[str, Any]:
        """Restore a merged model with the training images; the same images for every model.

        Raises:
            ConfigError: There is no restoration of that name.
        """
        if order.restoration == "none":
            return {}
        job = site.job(order)
        plain = replace(job.training, shifts=ShiftsConfig())  # the images as they are
        seed = site.seed(replace(order, round=0))
        loader = training_loader(site.prepared(order), plain, seed)
        if order.restoration == "statistics":
            recalibrate(network, several_together(batch["image"] for batch in loader))
        elif order.restoration == "steps":
            fine_tune(network, loader, plain, job.data, order.restoration_steps)
        else:
            raise ConfigError(
                f"strategy.restoration={order.restoration}: one of none, statistics, steps."
            )
        return {}


HOSPITAL = MergingHospital()
