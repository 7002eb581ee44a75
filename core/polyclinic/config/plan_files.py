"""Plans: files of settings that `polyclinic-server plan` chose, for `data=plan.yaml`.

A plan names a file of conf/data, and settings that a job may hold (`polyclinic.config.jobs`). It
becomes settings as people write them, before those that a person gives: a person's own count.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from polyclinic.config.overrides import read_override, write_override
from polyclinic.config.validation import LONGEST, JobSettings, check_name
from polyclinic.errors import ConfigError
from polyclinic.system.durable import write_atomically
from polyclinic.system.plain_yaml import parse_yaml
from polyclinic.system.text import clean, first_line, json_digest

FILE = "plan.yaml"
SUFFIXES = (".yaml", ".yml")
LARGEST_BYTES = 2**17
LIST = "tag:yaml.org,2002:seq"
WRITTEN = (
    "# polyclinic-server run data=plan.yaml model=dynunet training=nnunet\n"
    "# Written by `polyclinic-server plan`. Do not edit it: settings of the command line count "
    "more.\n"
)
Text = Annotated[str, BeforeValidator(lambda text: clean(text) if isinstance(text, str) else text)]
Word = Annotated[Text, Field(max_length=100)]
Sentence = Annotated[Text, Field(max_length=1000)]
Figure = bool | int | float | Word
Figures = Annotated[list[Figure], Field(max_length=LONGEST)]


class Plan(BaseModel):
    """What a plan's file holds.

    Attributes:
        format: Version of the file's format.
        data: Name of a file of conf/data.
        settings: Dotted setting to value.
        reasons: Dotted setting to the sentence that says why.
        memory_gb: Memory in GiB that training takes, as it is estimated.
        fingerprint: What the plan was made from, in summary.
        digest: SHA-256 of all the rest; empty until the plan is written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    data: Annotated[str, AfterValidator(check_name)]
    settings: JobSettings
    reasons: Annotated[Mapping[Word, Sentence], Field(max_length=LONGEST)] = {}
    memory_gb: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    fingerprint: Annotated[Mapping[Word, Figure | Figures], Field(max_length=LONGEST)] = {}
    digest: Annotated[str, Field(max_length=64)] = ""

    def compute_digest(self) -> str:
        """Compute the SHA-256 of everything but the digest."""
        return json_digest(self.model_dump(mode="json", exclude={"digest"}))

    def overrides(self) -> list[str]:
        """Return the plan as settings, SETTING=VALUE."""
        settings = (write_override(key, value) for key, value in self.settings.items())
        return [f"data={self.data}", *settings]


def write_plan(plan: Plan, path: Path) -> Plan:
    """Write a plan, whole or not at all; return it with its digest."""
    sealed = plan.model_copy(update={"digest": plan.compute_digest()})
    tree = sealed.model_dump(mode="json")
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=98)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, WRITTEN + text)
    return sealed


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ConfigError: There is no such file, it is damaged, or it was changed since it was written.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"data={path}: the plan cannot be read ({(error.strerror or 'an error').lower()}). "
            "`polyclinic-server plan` writes one."
        ) from error
    try:
        if len(content) > LARGEST_BYTES:
            raise ValueError(f"more than {LARGEST_BYTES // 1024} KiB")
        plan = Plan.model_validate(parse_yaml(content.decode()))
    except (yaml.YAMLError, ValidationError, ConfigError) as error:
        raise _damaged(path, _say(error)) from error
    except (ValueError, ArithmeticError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    if plan.digest != plan.compute_digest():
        raise ConfigError(
            f"data={path}: the plan was changed after it was written: its digest does not fit. "
            "Write it again with `polyclinic-server plan`, and give on the command line what "
            "should differ, such as training.batch_size=4."
        )
    return plan


def named_plan(overrides: Sequence[str]) -> Path | None:
    """Return the file of the plan that settings name by `data=FILE.yaml`; None if they do not."""
    paths = [path for text in overrides if (path := _plan_path(text)) is not None]
    return paths[-1] if paths else None


def with_plan(overrides: Sequence[str], has: Callable[[str], bool]) -> tuple[str, ...]:
    """Replace `data=FILE.yaml` by the plan's settings; a person's own settings count more.

    Args:
        overrides: Settings, SETTING=VALUE.
        has: Whether the chosen network has this setting of `model`; others are left out, so that
            any network can be trained on a plan's data.

    Raises:
        ConfigError: The plan cannot be read.
    """
    path = named_plan(overrides)
    if path is None:
        return tuple(overrides)
    others = [text for text in overrides if _plan_path(text) is None]
    given = {text.partition("=")[0].lstrip("+") for text in others}
    planned = [
        text
        for text in read_plan(path).overrides()
        if (key := text.partition("=")[0]) not in given
        and (not key.startswith("model.") or has(key))
    ]
    return (*planned, *others)


def _plan_path(text: str) -> Path | None:
    key, _, value = text.partition("=")
    if key != "data" or not value.rstrip("'\"").endswith(SUFFIXES):
        return None
    return Path(str(read_override(text)[1].value()))


class _Dumper(yaml.SafeDumper):
    """YAML with each list on a line."""


_Dumper.add_representer(
    list, lambda dumper, found: dumper.represent_sequence(LIST, found, flow_style=True)
)


def _damaged(path: Path, problem: str) -> ConfigError:
    return ConfigError(
        f"data={path}: this is no plan, or it is damaged ({clean(problem)[:300]}). Write it again "
        "with `polyclinic-server plan`."
    )


def _say(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))[:100] or 'it'}: {first['msg']}"
    return first_line(error)
