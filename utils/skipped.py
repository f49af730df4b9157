"""Counts the damaged members that a run goes on without."""

from collections.abc import Callable
from pathlib import Path

from datasets.task import UserError
from utils.command import printable
from utils.distributed import Distributed
from utils.files import write_whole

FILE = "skipped.txt"  # in the run folder


class Skipped:
    """At most `limit` members that a run goes on without, each counted once.

    distributed: each rank meets others; what counts is the union, on which they agree in `settle`.
    Alone, a process settles at once. tell: takes a line for whoever watches. folder: where the list
    is kept, a line `SHARD: MEMBER`, tab, reason for each member; with `resumed` it goes on, else it
    begins anew. UserError: the list of a resumed run is longer than the limit.

    listed: member -> reason, in the order in which they were met.
    """

    def __init__(
        self,
        limit: int,
        distributed: Distributed,
        tell: Callable[[str], object],
        folder: Path | None = None,
        resumed: bool = False,
    ) -> None:
        self.limit, self.distributed, self.tell = limit, distributed, tell
        self.listed: dict[str, str] = {}
        self._met: dict[str, str] = {}  # by this process, not settled yet
        self._path = folder / FILE if folder is not None else None
        if self._path is not None and resumed:
            self.listed = _read(self._path)
        elif self._path is not None and distributed.is_main:
            self._path.unlink(missing_ok=True)
        if len(self.listed) > limit:
            raise UserError(
                f"{self._path}: lists {len(self.listed)} members, --skip-bad {limit} is the limit"
            )

    def add(self, member: str, reason: str) -> None:
        """This process has met a bad member, `SHARD: MEMBER`. UserError as in `settle`."""
        if member not in self.listed:
            self._met.setdefault(member, " ".join(reason.split()))
            if self.distributed.world_size == 1:
                self.settle()

    def settle(self) -> None:
        """List what any rank has met since the last time: all ranks are here at the same step.

        UserError, on all of them, names the member that is one too many.
        """
        met = self.distributed.union(f"{member}\t{reason}" for member, reason in self._met.items())
        self._met.clear()
        for line in met:
            member, _, reason = line.rpartition("\t")
            if member in self.listed:
                continue
            if len(self.listed) == self.limit:
                before = f"; {self.limit} skipped before it, --skip-bad {self.limit} is the limit"
                raise UserError(f"{member}: {reason}{before if self.limit else ''}")
            self.listed[member] = reason
            if self.distributed.is_main:
                self._write()
                self.tell(printable(f"skipped {member}: {reason}"))

    @property
    def count(self) -> dict[str, int]:
        """How many, under the name it is logged by; nothing as long as there is none."""
        return {"skipped": len(self.listed)} if self.listed else {}

    def _write(self) -> None:
        """The whole list: a crash leaves the old one or the new."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{member}\t{reason}\n" for member, reason in self.listed.items())
        write_whole(self._path, "".join(lines).encode())


def _read(path: Path) -> dict[str, str]:
    """What `_write` wrote; nothing where no member was skipped yet."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.split("\n")[:-1]
    return {member: reason for member, _, reason in (line.rpartition("\t") for line in lines)}
