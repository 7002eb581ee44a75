"""What the process of a run is told by the service that starts it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError

OF_THE_SERVICE = ("host", "port", "security", "insecure")


class RunTask(BaseModel):
    """A run's process.

    Attributes:
        runs: Folder of the runs.
        name: Name of the run.
        settings: As `polyclinic-server run` takes them; of its deployment alone if it is resumed.
        resume: Whether it is an unfinished run.
        host: Address that the service listens on.
        port: Its port, as it was asked for.
        security: Folder of keys and certificates; None without keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    runs: str
    name: str
    settings: list[str]
    resume: bool
    host: str
    port: int
    security: str | None

    @property
    def deployment(self) -> list[str]:
        """The settings of the service, which are the run's, too."""
        keys = ["deployment.insecure=true"] if self.security is None else []
        return [f"deployment.runs={self.runs}", *keys]

    def check_deployment(self) -> None:
        """Refuse a run that asks for another place, or other keys, than the service has.

        Raises:
            ConfigError: It does.
        """
        asks = [text for text in self.settings if text.startswith("deployment")]
        given, usual = (load_config(each).deployment for each in (asks, []))
        ours = {
            "host": self.host,
            "port": self.port,
            "security": self.security,
            "insecure": self.security is None,
        }
        for name in OF_THE_SERVICE:
            asked = getattr(given, name)
            if name == "security":
                asked = str(Path(asked).resolve()) if asked != usual.security else None
            elif asked == getattr(usual, name):
                asked = None
            if asked not in (None, ours[name]):
                raise ConfigError(
                    f"deployment.{name}={asked}: that is the service's, which has "
                    f"{ours[name]}. Leave the setting out, or end the service."
                )
