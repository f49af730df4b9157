"""Reads parquet files of ARTeFACT's hub layout as a store with the names of its export."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from datasets.stores.index_cache import Columns
from datasets.stores.names import Names
from datasets.stores.store import Store
from datasets.task import UserError

IMAGES = ("image", "annotation")  # columns that become files; annotation_rgb says the same again
FACTS = ("id", "material", "content")  # columns of metadata.csv
TABLE = "metadata.csv"


class ParquetStore(Store):
    """Rows with the columns `image`, `annotation` (encoded bytes), `id`, `material`, `content`, as
    `image/ID.png`, `annotation/ID.png` and `metadata.csv`. Meant to be read in order: a row group
    is held at a time. UserError: pyarrow is missing, or a file has other columns.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._held: tuple[Any, Any] = (None, None)  # (file, group, column), its values
        names, self._cells, facts, self._lengths = [], [], [], []
        for number in range(len(paths)):
            for group in range(self._open(number).num_row_groups):
                rows = self._rows(number, group, list(FACTS))
                facts += [[row[name] for name in FACTS] for row in rows]
                for column in IMAGES:
                    blobs = self._blobs(number, group, column)
                    if len(blobs) != len(rows):
                        raise UserError(f"{paths[number]}: {column}: expected {len(rows)} images")
                    names += [f"{column}/{row['id']}.png".encode() for row in rows]
                    self._cells += [(number, group, column, i) for i in range(len(rows))]
                    self._lengths += map(len, blobs)
        table = io.StringIO(newline="")
        csv.writer(table).writerows([FACTS, *facts])
        self._table = table.getvalue().encode()
        self._lengths.append(len(self._table))
        listed, self._usable = Names.collect(paths[0], [*names, TABLE.encode()])
        super().__init__(paths[0], Columns(listed.columns()))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_held": (None, None)}

    def _open(self, number: int) -> Any:
        path = self._paths[number]
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            raise UserError(f"{path}: reading it needs pyarrow: pip install pyarrow") from None
        try:
            file = parquet.ParquetFile(path)
            there = file.schema_arrow.names
        except (OSError, ValueError, ArrowException) as error:
            raise UserError(f"{path}: not a parquet file: {str(error).splitlines()[0]}") from None
        missing = [name for name in IMAGES + FACTS if name not in there]
        if missing:
            raise UserError(f"{path}: no column {missing[0]}, expected {', '.join(IMAGES + FACTS)}")
        return file

    def _rows(self, number: int, group: int, columns: list[str]) -> list[dict[str, Any]]:
        from pyarrow import ArrowException

        try:
            return self._open(number).read_row_group(group, columns).to_pylist()
        except (OSError, ValueError, ArrowException) as error:
            what = str(error).splitlines()[0]
            raise UserError(f"{self._paths[number]}: row group {group}: {what}") from None

    def _blobs(self, number: int, group: int, column: str) -> list[bytes]:
        """The encoded images of a column: plain bytes, or bytes and path as the hub stores them."""
        if self._held[0] != (number, group, column):
            values = [row[column] for row in self._rows(number, group, [column])]
            blobs = [v.get("bytes") if isinstance(v, dict) else v for v in values]
            if not all(isinstance(blob, bytes) for blob in blobs):
                raise UserError(f"{self._paths[number]}: {column}: expected encoded images")
            self._held = (number, group, column), blobs
        return self._held[1]

    def read_at(self, index: int) -> bytes:
        """As the base class's: a cell, or the table of the other columns."""
        position = int(self._usable[index])
        if position == len(self._cells):
            return self._table
        number, group, column, row = self._cells[position]
        return self._blobs(number, group, column)[row]

    def sizes(self) -> np.ndarray:
        return np.array(self._lengths, np.int64)[self._usable]
