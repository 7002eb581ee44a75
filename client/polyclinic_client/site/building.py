"""Jobs that this machine's conf/ was composed to; composing takes long: once in a process."""

from polyclinic.config.jobs import job_digests, load_job
from polyclinic.config.schemas import JobConfig
from polyclinic.federation.records import Order
from polyclinic.system.text import json_digest
from polyclinic_client.site.dispatch import check_job_packages, check_packages

_JOBS: dict[str, tuple[JobConfig, dict[str, str]]] = {}


def built_job(order: Order) -> tuple[JobConfig, dict[str, str]]:
    """Build the job that an order asks for, and its digests.

    Raises:
        MethodMissing, PluginMismatch: Something that it needs is not installed here.
        ConfigError: It is no job.
    """
    key = json_digest([dict(order.names), dict(order.settings), order.method, dict(order.plugins)])
    if key not in _JOBS:
        check_packages(order)
        job = load_job(order.names, order.settings)
        check_job_packages(order, job)
        _JOBS[key] = (job, job_digests(job))
    return _JOBS[key]
