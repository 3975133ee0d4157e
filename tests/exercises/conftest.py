"""The tiny bank and the tiny shop, for specs that need a service at work."""

from tests.fraud.conftest import world
from tests.recsys.conftest import shop, shop_world

__all__ = ["shop", "shop_world", "world"]
