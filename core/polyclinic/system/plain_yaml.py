"""YAML of people's own files: plain, flat enough, and said once."""

from typing import Any

import yaml

DEEPEST = 8  # lists and mappings inside one another


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Makes plain values, and refuses a name that comes twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [str(key.value) for key, _ in node.value]
        if len(set(names)) < len(names):
            raise yaml.YAMLError("a name comes twice")
        return super().construct_mapping(node, deep)


def parse_yaml(text: str | bytes) -> Any:
    """Parse YAML that is flat enough, without aliases, by which a small file can stand for much.

    Raises:
        yaml.YAMLError: It is no such YAML.
    """
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("it holds aliases")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.YAMLError("it is nested too deeply")
    return yaml.load(text, _Loader)
