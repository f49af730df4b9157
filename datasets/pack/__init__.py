"""Stores of any kind go in; zip or HDF5 shards with the same names and bytes come out."""
