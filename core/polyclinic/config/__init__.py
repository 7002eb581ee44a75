"""Configuration: what `conf/` names, and the frozen dataclasses that it becomes."""
