"""The cohort of the tests with real processes."""

from tests.e2e.conftest import sites

__all__ = ["sites"]
