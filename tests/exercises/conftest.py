"""The tiny bank of tests/fraud, for specs that need a service at work."""

from tests.fraud.conftest import world

__all__ = ["world"]
