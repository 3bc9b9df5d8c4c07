"""SHA-256 and a JSON parser by a short way: the first score of a session pays for every import.

``json`` imports ``re`` and with it some 9 ms, ``hashlib`` OpenSSL and 1 to 3 ms; both stand on C modules that come with
CPython and take less than 0.1 ms. Where those aren't there, the front doors are used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself takes 3 ms; type checkers take this name for true
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

try:
    from _sha2 import sha256 as _sha256  # type: ignore[import-not-found]
except ImportError:
    try:
        from _sha256 import sha256 as _sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256 as _sha256

try:
    import _json
except ImportError:
    _json = None  # type: ignore[assignment]
_make_scanner: Any = getattr(_json, "make_scanner", None)
_encode_string: Any = getattr(_json, "encode_basestring", None)


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes, as 64 hexadecimal digits."""
    digest: str = _sha256(content).hexdigest()
    return digest


class _Context:
    """What the scanner asks of a json.JSONDecoder."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float = float
    parse_int = int

    def __init__(self, parse_constant: Callable[[str], Any]) -> None:
        self.parse_constant = parse_constant
        self.memo: dict[str, str] = {}


def parse_json(text: str, parse_constant: Callable[[str], Any]) -> Any:
    """Return the value of a JSON text; what `parse_constant` returns stands for NaN, Infinity and -Infinity.

    Raises
    ------
    ValueError
        If the text isn't JSON.
    """
    if _make_scanner is None:
        import json

        return json.loads(text, parse_constant=parse_constant)
    text = text.strip(" \t\n\r")
    try:
        value, end = _make_scanner(_Context(parse_constant))(text, 0)
    except StopIteration as stop:
        raise ValueError(f"no value at character {stop.value}") from None
    except SystemError:
        # What the scanner would raise is json's, and it doesn't look for that where nobody has imported it.
        import json

        return json.loads(text, parse_constant=parse_constant)
    if end != len(text):
        raise ValueError(f"more than one value, from character {end}")
    return value


def quote(text: str) -> str:
    """Return a text as a JSON string."""
    if _encode_string is None:
        import json

        return json.dumps(text, ensure_ascii=False)
    quoted: str = _encode_string(text)
    return quoted
