"""The short ways to JSON and SHA-256 lead to the same place as the front doors."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relief_runtime import light

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def refuse(name: str) -> None:
    raise AssertionError(name)


@given(VALUES, st.sampled_from([None, 2]), st.booleans())
def test_what_json_writes_is_read_back(value: object, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert light.parse_json(f" {text}\n", refuse) == value


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \\u'))
def test_what_json_refuses_is_refused(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            light.parse_json(text, float)
    else:
        assert light.parse_json(text, float) == expected


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_constants_are_told(name: str) -> None:
    told: list[str] = []
    light.parse_json(f"[{name}]", told.append)
    assert told == [name]


def test_without_the_c_scanner_json_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "_make_scanner", None)
    assert light.parse_json(' {"a": [1, null, 2.5]} ', refuse) == {"a": [1, None, 2.5]}
    assert math.isnan(light.parse_json("NaN", float))


@given(st.binary())
def test_the_checksum_is_sha_256(content: bytes) -> None:
    assert light.sha256(content) == hashlib.sha256(content).hexdigest()
