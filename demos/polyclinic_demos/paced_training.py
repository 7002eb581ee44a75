"""Fine-tuning on a slower machine, so that the hospitals of a demo are not equally fast."""

import os
import time
from typing import Any

from polyclinic.federation.records import Order
from polyclinic_client.site import fine_tuning
from polyclinic_client.site.site import Site

REST = "POLYCLINIC_DEMO_REST_S"  # seconds of rest after every training step


class PacedSite(Site):
    """Hospital whose machine rests after every training step."""

    def say(self, order: Order, doing: str, *, force: bool = False, **details: Any) -> None:
        """Write what is being done, and rest."""
        super().say(order, doing, force=force, **details)
        if doing == "training":
            time.sleep(float(os.environ.get(REST, "0")))


if __name__ == "__main__":
    fine_tuning.main(PacedSite)
