"""What an allocator takes from the system for the blocks of a step: their sizes and order -> bytes.

Blocks come and go in the order of a trace (`trace`), and gaps stay between those that are
left. Two steps are played; what a first one leaves behind is there in the second.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any, NamedTuple

MIB = 2**20


class Block(NamedTuple):
    """A piece of memory, in bytes."""

    start: int
    size: int


class FreeBlocks:
    """Memory that is free. Neighbours become one; the smallest that is large enough is taken."""

    def __init__(self) -> None:
        self._by_size: list[tuple[int, int]] = []  # (size, start), sorted
        self._sizes: dict[int, int] = {}  # by start
        self._starts: dict[int, int] = {}  # by end

    def add(self, start: int, size: int) -> None:
        """Memory becomes free."""
        if start in self._starts:  # the free block before ends here
            before = self._starts[start]
            size += self._drop(before)
            start = before
        if start + size in self._sizes:
            size += self._drop(start + size)
        self._sizes[start], self._starts[start + size] = size, start
        insort(self._by_size, (size, start))

    def take(self, size: int) -> Block | None:
        """The whole of the smallest block of at least this size, or None."""
        index = bisect_left(self._by_size, (size, 0))
        if index == len(self._by_size):
            return None
        found, start = self._by_size[index]
        self._drop(start)
        return Block(start, found)

    def pop_at_end(self, end: int) -> int:
        """Take the block that ends there; its size, 0 if there is none."""
        return self._drop(self._starts[end]) if end in self._starts else 0

    def _drop(self, start: int) -> int:
        size = self._sizes.pop(start)
        del self._starts[start + size]
        del self._by_size[bisect_left(self._by_size, (size, start))]
        return size


class CudaAllocator:
    """torch's caching allocator. Requests are rounded up to 512 bytes. Up to 1 MiB they share
    segments of 2 MiB, up to 10 MiB of 20 MiB; larger ones have segments of whole 2 MiB. What is
    left of a block is free for others, of large ones if it has more than 1 MiB (torch 2.14,
    CUDACachingAllocator.cpp)."""

    def __init__(self) -> None:
        self._free = {True: FreeBlocks(), False: FreeBlocks()}  # of small and of large requests
        self._end = 0
        self.taken = 0  # bytes of all segments

    def allocate(self, size: int) -> tuple[bool, Block]:
        """A block, and whether it is among the small ones."""
        size = max(1, -(-size // 512)) * 512
        small = size <= MIB
        block = self._free[small].take(size) or self._segment(size, small)
        rest = block.size - size
        if rest >= 512 if small else rest > MIB:
            self._free[small].add(block.start + size, rest)
            block = Block(block.start, size)
        return small, block

    def free(self, held: tuple[bool, Block]) -> None:
        """It is kept for the next request."""
        small, block = held
        self._free[small].add(*block)

    def _segment(self, size: int, small: bool) -> Block:
        if small:
            size = 2 * MIB
        else:
            size = 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        start = self._end
        self._end += size + 1  # neighbours are not one
        self.taken += size
        return Block(start, size)


class Heap:
    """That of the C library (glibc) where it keeps what is freed: `heap.keep_freed_memory`.

    torch's tensors begin at a multiple of 64 bytes. To find one, 96 bytes more are asked for, and
    what is not needed goes back at once.
    """

    SLACK = 96

    def __init__(self) -> None:
        self._free, self._top = FreeBlocks(), 0
        self.taken = 0  # bytes, at most

    def allocate(self, size: int) -> Block:
        """A block, in the smallest gap that has room, else at the top."""
        size = -(-(size + 8) // 16) * 16
        gap = self._free.take(size + self.SLACK)
        if gap is None:
            gap = Block(self._top, size + self.SLACK)
            self._top += gap.size
            self.taken = max(self.taken, self._top)
        self.free(Block(gap.start + size, gap.size - size))
        return Block(gap.start, size)

    def free(self, block: Block) -> None:
        """It is kept for the next request, or the top sinks."""
        if block.start + block.size < self._top:
            self._free.add(*block)
        else:
            self._top = block.start - self._free.pop_at_end(block.start)


def play(
    allocator: CudaAllocator | Heap,
    sizes: Sequence[int],
    events: Sequence[Sequence[int]],
    present: int = 0,
) -> int:
    """Bytes that two steps make the allocator take. events: (index of a size, 1 where it comes or
    -1 where it goes) of one step. The first `present` stay; of the others, what is there at the end
    of a step goes before the next."""
    for number in range(present):
        allocator.allocate(sizes[number])
    step = [(int(n), change > 0) for n, change in events if n >= present]
    for _ in range(2):
        held: dict[int, Any] = {}
        for number, comes in step:
            if comes:
                held[number] = allocator.allocate(sizes[number])
            else:
                allocator.free(held.pop(number))
        for block in held.values():
            allocator.free(block)
    return allocator.taken
