"""Model documents that somebody has tampered with, in one place or in several, as values or as text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from helpers.forests import copy_of

# What code, SQL, numbers and JSON have that may go wrong where a number or a name is expected.
NASTY = [
    *(10**400, -(10**400), 2**63, -(2**31), 2**15, 1e308, -1e308, 5e-324, -0.0, -1, 0, 1, 2, True, None),
    *("", "1", "nan", "0x1p-2", "\0", "\ud800", "a" * 300, "x0", "row", "__import__('os').system('true')"),
    *("1)\n import os", "1e999", "-inf"),
    *('"; drop table x; --', "'||(select 1)||'", "$python$", "$sql$", "%s", "{}", "__class__"),
    *([], {}, [[]], {"value": 1}, [0] * 50),
]  # fmt: skip
values = (
    st.sampled_from(NASTY)
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.lists(st.integers(-2, 5) | st.floats(), max_size=6)
    | st.dictionaries(st.text(max_size=4), st.integers() | st.floats(), max_size=3)
)
texts = st.text(max_size=4) | st.sampled_from([value for value in NASTY if isinstance(value, str)])


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, child in children for deeper in _paths(child, (*path, key)))]


@st.composite
def tampered(draw: st.DrawFn, document: dict[str, Any]) -> str:
    """Draw the text of a document of which one to four places are changed, and perhaps the text itself."""
    content = copy_of(document)
    for _ in range(draw(st.integers(1, 4))):
        *way, last = draw(st.sampled_from(_paths(content)[1:]))
        parent: Any = content
        for key in way:
            parent = parent[key]
        _change(draw, parent, last)
        if not content:
            break
    text = json.dumps(content)
    if draw(st.integers(0, 5)) == 0:
        place, removed = draw(st.integers(0, len(text))), draw(st.integers(0, 20))
        text = text[:place] + draw(texts) + text[place + removed :]
    return text


def _change(draw: st.DrawFn, parent: Any, key: Any) -> None:
    verb = draw(st.sampled_from(["replace", "replace", "scale", "remove", "double", "swap"]))
    value = parent[key]
    if verb == "scale" and isinstance(value, int | float) and abs(value) < 2**63:
        parent[key] = value * draw(st.sampled_from([-1, 0.5, 2, 1e10, 1e300]))
    elif verb == "remove":
        del parent[key]
    elif verb == "double" and isinstance(parent, list):
        parent.insert(key, copy_of(value))
    elif verb == "double":
        parent[draw(texts)] = copy_of(value)
    elif verb == "swap" and isinstance(parent, list):
        other = draw(st.integers(0, len(parent) - 1))
        parent[key], parent[other] = parent[other], value
    else:
        parent[key] = copy_of(draw(values))
