"""Federated learning for medical imaging: the public Python API.

Example:
    ```python
    import polyclinic

    result = polyclinic.simulate("data", strategy="averaging/local,averaging/fedavg", rounds=3)
    print(result.table())
    ```

Importing this package imports nothing else: a name is imported when it is first used. Their types
are in `__init__.pyi`.
"""

from importlib import import_module
from typing import Any

_PLACES = {  # name -> where it is defined; what lies in other packages is imported on use alone
    "Change": "polyclinic.simulation.changes",
    "CommonTask": "polyclinic.federation.hospital",
    "Config": "polyclinic.config.schemas",
    "ConfigError": "polyclinic.errors",
    "Contribution": "polyclinic.store.contribution",
    "DataError": "polyclinic.errors",
    "Event": "polyclinic.federation.events",
    "Ledger": "polyclinic.store.ledger",
    "Method": "polyclinic.federation.method",
    "ModelInvalid": "polyclinic.errors",
    "PolyclinicError": "polyclinic.errors",
    "Rule": "polyclinic_strategies.merging.arithmetic.layer",
    "RunError": "polyclinic.errors",
    "Section": "polyclinic.reporting.section",
    "SimulationResult": "polyclinic.simulation.result",
    "SiteDataset": "polyclinic.imaging.datasets",
    "Statistic": "polyclinic.describing.statistics",
    "describe": "polyclinic.describing.folders",
    "evaluate": "polyclinic.learning.prediction",
    "load_config": "polyclinic.config.compose",
    "load_model": "polyclinic.learning.model_file",
    "merge": "polyclinic_strategies.merging.in_memory",
    "predict": "polyclinic.learning.prediction",
    "read_dataset": "polyclinic.imaging.datasets",
    "simulate": "polyclinic.simulation.run",
    "warp": "polyclinic_strategies.proxy.warping",
}
__all__ = [
    "Change",
    "CommonTask",
    "Config",
    "ConfigError",
    "Contribution",
    "DataError",
    "Event",
    "Ledger",
    "Method",
    "ModelInvalid",
    "PolyclinicError",
    "Rule",
    "RunError",
    "Section",
    "SimulationResult",
    "SiteDataset",
    "Statistic",
    "describe",
    "evaluate",
    "load_config",
    "load_model",
    "merge",
    "predict",
    "read_dataset",
    "simulate",
    "warp",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'polyclinic' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(place), name)
    return value


def __dir__() -> list[str]:
    """List the public names, for completion in notebooks."""
    return sorted({*globals(), *__all__})
