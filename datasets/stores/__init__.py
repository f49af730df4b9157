"""Folders and shards, here or elsewhere: names, where their bytes are, how they are written."""

from datasets.stores.files import shown
from datasets.stores.store import (
    SHARD_SUFFIXES,
    FolderStore,
    Hdf5Store,
    Shard,
    Store,
    ZipStore,
    open_stores,
    parse_path,
)
from datasets.stores.write import write_hdf5, write_zip
