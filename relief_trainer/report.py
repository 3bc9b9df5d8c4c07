"""Tell what a worker does: a line an event, for people or as JSON."""

from __future__ import annotations

import datetime
import json
import threading
from typing import Any, TextIO


class Report:
    """Writes events to a stream, each as it happens; safe to be called from several threads.

    Parameters
    ----------
    stream
        Where to write.
    as_json
        Whether an event is an object with ``at``, ``event`` and what there is to say, or a sentence.
    """

    def __init__(self, stream: TextIO, *, as_json: bool = False) -> None:
        self._stream = stream
        self._as_json = as_json
        self._lock = threading.Lock()

    def __call__(self, event: str, sentence: str, **details: Any) -> None:
        """Write an event: its name for programs, a sentence for people, and details for programs."""
        at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        known = {name: detail for name, detail in details.items() if detail is not None}
        line = json.dumps({"at": at, "event": event, **known}, ensure_ascii=False, default=str)
        with self._lock:
            print(line if self._as_json else f"{at} {sentence}", file=self._stream, flush=True)
