"""The tiny bank of tests/fraud and the tiny shop of tests/recsys, for tests that run commands on them."""

from tests.fraud.conftest import any_bank, bank, open_bank, world
from tests.recsys.conftest import open_shop, shop, shop_world

__all__ = ["any_bank", "bank", "open_bank", "open_shop", "shop", "shop_world", "world"]
