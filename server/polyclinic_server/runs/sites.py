"""Which hospitals a run gets: all that are admitted, or those that its settings name."""

from collections.abc import Sequence

from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.registry import Registry


def chosen_sites(configs: Sequence[Config], authority: Authority | None) -> tuple[str, ...]:
    """Return the hospitals that settings name; nothing if they name none, which means all.

    Args:
        configs: Configuration of each strategy of a run; all have the same deployment.
        authority: The security folder, whose registry must know them; None without keys.

    Raises:
        ConfigError: One is not enrolled, or they are fewer than the run needs.
    """
    deployment = configs[0].deployment
    chosen = tuple(dict.fromkeys(deployment.sites))
    if not chosen:
        return ()
    if (wanted := max(deployment.min_hospitals, deployment.hospitals)) > len(chosen):
        raise ConfigError(
            f"deployment.sites names {len(chosen)} hospitals, and the run waits for {wanted}: name "
            "more of them, or lower deployment.min_hospitals and deployment.hospitals."
        )
    if authority is not None:
        _check_enrolled(chosen, authority)
    return chosen


def _check_enrolled(chosen: Sequence[str], authority: Authority) -> None:
    registry = Registry(authority.folder)
    try:
        enrolled = {key.site for key in registry.everybody() if key.active}
    finally:
        registry.close()
    unknown = [site for site in chosen if site not in enrolled]
    if unknown:
        names = ", ".join(sorted(enrolled)) or "nobody"
        raise ConfigError(
            f"deployment.sites: {', '.join(unknown)} is not enrolled. Enrolled: {names}."
        )
