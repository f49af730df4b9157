"""Stores of any kind go in; zip or HDF5 shards with the same names and bytes come out."""

from datasets.pack.packing import Packed, pack
from datasets.pack.plan import Recipe

__all__ = ["Packed", "Recipe", "pack"]
