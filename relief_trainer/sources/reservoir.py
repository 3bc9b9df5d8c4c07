"""Draw rows at random from a stream of unknown length, in one pass and bounded memory."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Reservoir(Generic[Item]):
    """Keeps ``size`` of all items offered, each with the same probability.

    Algorithm L of Li, "Reservoir-Sampling Algorithms of Time Complexity O(n(1 + log(N/n)))" (ACM TOMS, 1994): it draws
    how many items to skip, so an item that isn't kept is never touched.
    """

    def __init__(self, size: int, generator: random.Random) -> None:
        self.kept: list[Item] = []
        self.seen = 0
        self._size = size
        self._generator = generator
        self._weight = 1.0
        self._next = size - 1

    def offer(self, items: Sequence[Item]) -> None:
        """Offer the next items; only those that are kept are taken out of the sequence."""
        missing = min(self._size - len(self.kept), len(items))
        self.kept.extend(items[position] for position in range(missing))
        end = self.seen + len(items)
        if len(self.kept) == self._size:
            if self._next == self._size - 1:
                self._skip()
            while self._next < end:
                self.kept[self._generator.randrange(self._size)] = items[self._next - self.seen]
                self._skip()
        self.seen = end

    def _skip(self) -> None:
        self._weight *= math.exp(math.log(self._uniform()) / self._size)
        # A weight that rounds to 1 skips nothing.
        passed = math.log1p(-self._weight) if self._weight < 1.0 else -math.inf
        self._next += math.floor(math.log(self._uniform()) / passed) + 1

    def _uniform(self) -> float:
        """Return a number in (0, 1), of which a logarithm can be taken."""
        return max(self._generator.random(), 2.0**-53)


class Lottery:
    """Keeps ``size`` of all keys offered, in whatever order and however often they come: those whose hash is lowest."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._salt = seed.to_bytes(8, "big")
        # Negative, as the heap has its lowest on top.
        self._heap: list[tuple[int, bytes]] = []
        self._kept: set[bytes] = set()

    def offer(self, key: bytes) -> None:
        """Offer a key."""
        ticket = -int.from_bytes(blake2b(key, digest_size=8, salt=self._salt).digest(), "big"), key
        if key in self._kept or (len(self._heap) == self._size and ticket < self._heap[0]):
            return
        self._kept.add(key)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, ticket)
        else:
            self._kept.remove(heapq.heappushpop(self._heap, ticket)[1])

    def kept(self) -> list[bytes]:
        """Return the keys that are kept, the lowest hash first: the same for the same keys and seed."""
        return [key for _, key in sorted(self._heap, reverse=True)]
