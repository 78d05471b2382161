"""Store: labelled structures in a folder of flat files, mapped into memory, appendable, however many there are."""

from tumble.data.store.state import is_store
from tumble.data.store.store import Store

__all__ = ["Store", "is_store"]
