"""Stores of any kind go in; zip or HDF5 shards with the same names and bytes come out."""

from datasets.pack.packing import Packed, pack
from datasets.pack.plan import PackRecipe

__all__ = ["Packed", "PackRecipe", "pack"]
