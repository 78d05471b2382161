"""report(): results become one HTML page that needs no network and no JavaScript. It knows facts, and no physics."""

from tumble.page.typeset import report

__all__ = ["report"]
