"""Hashes or a stream of Redis: ``redis://host:port/0?hashes=order:*`` or ``redis://host:port/0?stream=orders``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis

from relief_trainer.errors import ReliefError
from relief_trainer.sources import uris
from relief_trainer.sources.reservoir import Lottery
from relief_trainer.sources.source import BATCH_ROWS, Drawn, Row, Source
from relief_trainer.sources.values import not_a_number

EXAMPLES = "?hashes=order:* or ?stream=orders"
# As many rows tell which fields there are: every hash and entry may have others.
ROWS_LOOKED_AT = 1_000


class RedisSource(Source):
    """Fields of hashes, whose key is the column ``key``, or of a stream's entries, whose column is ``id``.

    Redis holds texts: those of a feature must be numbers, and an empty one is missing. While others write, a hash may
    be met twice.
    """

    def __init__(self, client: Any, kind: str, pattern: str, name: str) -> None:
        self.name = name
        self._client = client
        self._pattern = pattern
        self._is_stream = kind == "stream"
        self._key = "id" if self._is_stream else "key"

    @classmethod
    def open(cls, uri: str) -> RedisSource:
        """Connect; ``rediss://`` encrypts, and ``redis+unix:///path?db=0`` is a socket."""
        rest, found = uris.parameters(uri, "hashes", "stream")
        shown = uris.without_secrets(uri)
        if len(found) != 1:
            raise ReliefError(f"{shown} doesn't say which hashes or stream to read", f"Add to the URI: {EXAMPLES}")
        ((kind, pattern),) = found.items()
        try:
            client = redis.Redis.from_url(rest.replace("redis+unix://", "unix://", 1))
        except ValueError as error:
            raise ReliefError(f"{shown} is not a URI of Redis: {error}", "For example: redis://host:6379/0") from None
        source = cls(client, kind, pattern, f"{kind} {pattern} of {shown}")
        with source._translated_errors():
            client.ping()
        return source

    def columns(self) -> list[str]:
        """Return the fields of the first thousand rows.

        Raises
        ------
        ReliefError
            If there are none.
        """
        names = {self._key: None}
        with self._translated_errors():
            if self._is_stream:
                fields = [entry for _, entry in self._client.xrange(self._pattern, count=ROWS_LOOKED_AT)]
            else:
                keys = next(self._key_batches(ROWS_LOOKED_AT), [])
                fields = self._pipelined([("hkeys", key) for key in keys])
        for row in fields:
            names.update((_text(name), None) for name in row)
        if len(names) == 1:
            raise ReliefError(f"{self.name} has no rows", "Is it the right database, and the right name or pattern?")
        return list(names)

    def keys(self) -> list[str]:
        """Return the hash's key, or the entry's id."""
        return [self._key]

    def count(self) -> int | None:
        """Return the length of a stream."""
        if not self._is_stream:
            return None
        with self._translated_errors():
            return int(self._client.xlen(self._pattern))

    def batches(self, columns: Mapping[str, type], rows: int) -> Iterator[Sequence[Row]]:
        """Yield all hashes as SCAN meets them, or a stream's entries from the first on."""
        with self._translated_errors():
            if self._is_stream:
                yield from self._entries(columns, rows)
            else:
                for keys in self._key_batches(rows):
                    yield self._hashes(keys, columns)

    def sample(self, columns: Mapping[str, type], rows: int, seed: int) -> Drawn:
        """Draw rows: of hashes, all keys are read, and the values of those that are drawn."""
        if self._is_stream:
            return super().sample(columns, rows, seed)
        # SCAN meets keys in another order each time.
        lottery = Lottery(rows, seed)
        total = 0
        with self._translated_errors():
            for keys in self._key_batches(BATCH_ROWS):
                total += len(keys)
                for key in keys:
                    lottery.offer(key)
            kept = lottery.kept()
            drawn: list[Row] = []
            for start in range(0, len(kept), BATCH_ROWS):
                drawn += self._hashes(kept[start : start + BATCH_ROWS], columns)
        return Drawn(drawn, total)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _key_batches(self, rows: int) -> Iterator[list[bytes]]:
        batch: list[bytes] = []
        for key in self._client.scan_iter(match=self._pattern, count=1_000, _type="HASH"):
            batch.append(key)
            if len(batch) == rows:
                yield batch
                batch = []
        if batch:
            yield batch

    def _hashes(self, keys: list[bytes], columns: Mapping[str, type]) -> list[Row]:
        fields = [name for name in columns if name != self._key]
        found = self._pipelined([("hmget", key, fields) for key in keys]) if fields else [[] for _ in keys]
        return [
            self._row({self._key: key, **dict(zip(fields, values, strict=True))}, columns)
            for key, values in zip(keys, found, strict=True)
        ]

    def _entries(self, columns: Mapping[str, type], rows: int) -> Iterator[list[Row]]:
        after: Any = "-"
        while entries := self._client.xrange(self._pattern, min=after, count=rows):
            yield [
                self._row({**{_text(name): value for name, value in fields.items()}, self._key: identity}, columns)
                for identity, fields in entries
            ]
            after = b"(" + entries[-1][0]

    def _pipelined(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command, *arguments in commands:
            getattr(pipeline, command)(*arguments)
        return list(pipeline.execute())

    def _row(self, values: Mapping[str, bytes | None], columns: Mapping[str, type]) -> list[Any]:
        return [
            self._number(value, name) if kind is float else None if value is None else _text(value)
            for name, kind in columns.items()
            for value in [values.get(name)]
        ]

    def _number(self, value: bytes | None, column: str) -> float | None:
        if value is None or not value.strip():
            return None
        try:
            # Python reads 1_000 as a number, PostgreSQL doesn't.
            return float(value.replace(b"_", b"?"))
        except ValueError:
            raise not_a_number(_text(value), column, self.name) from None

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            said = str(error).strip().splitlines()[0].rstrip(".")
            raise ReliefError(f"{self.name} cannot be read: {said}", "Check host, port, password and name.") from None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
