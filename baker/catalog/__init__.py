"""The catalog: what was baked, what is in it, where it came from, and what points at it."""

from baker.catalog.planning import Overview, Place
from baker.catalog.store import Catalog

__all__ = ["Catalog", "Overview", "Place"]
