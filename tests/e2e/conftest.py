"""The tiny bank of tests/fraud, for tests that run commands on it."""

from tests.fraud.conftest import any_bank, bank, open_bank, world

__all__ = ["any_bank", "bank", "open_bank", "world"]
