"""SQL scripts as statements: where each ends, and which object it is about."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Where a semicolon ends nothing: comments, names and strings. No string of Relief's scripts has a quote escaped by \.
_OPAQUE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_LEADING_COMMENTS = re.compile(r"(?:\s|--[^\n]*(?:\n|$))*")

_NAME = r"(?:\w+|\"[^\"]+\")(?:\.(?:\w+|\"[^\"]+\"))?"
_FORMS = [
    ("function", re.compile(r"create (?:function|procedure) ")),
    ("view", re.compile(rf"create view (?P<about>{_NAME})")),
    ("table", re.compile(rf"create (?:table|sequence) (?P<about>{_NAME})")),
    ("type", re.compile(rf"create type (?P<about>{_NAME})")),
    ("part of a table", re.compile(rf"alter table (?P<about>{_NAME})")),
    ("part of a table", re.compile(rf"create (?:unique )?index \w+ on (?P<about>{_NAME})")),
    ("part of a table", re.compile(rf"create policy \w+\s.*?\bon (?P<about>{_NAME})", re.DOTALL)),
    # Of these there is no OR REPLACE.
    ("part of a table", re.compile(rf"create constraint trigger \w+\s.*?\bon (?P<about>{_NAME})", re.DOTALL)),
    ("trigger", re.compile(r"create trigger ")),
    ("comment", re.compile(r"comment on (?:function|procedure) (?P<about>.*?\)) is\s", re.DOTALL)),
    ("comment", re.compile(r"comment on ")),
    ("revoke", re.compile(r"revoke execute on all (?:functions|procedures) in schema relief from public$")),
    ("grant", re.compile(r"grant execute on function\s(?P<about>.*?)\s+to public$", re.DOTALL)),
]


@dataclass(frozen=True)
class Statement:
    """A statement, with the comments before it and without its semicolon.

    ``about`` is the table, view or type that it is about, the signature of the function that it comments, or the list
    of functions that it grants; empty otherwise.
    """

    text: str
    kind: str
    about: str

    @property
    def bare(self) -> str:
        """The statement without the comments before it."""
        return self.text[_leading(self.text) :]


def split(script: str) -> list[str]:
    """Return the statements of a script, each with the comments before it and without its semicolon."""
    statements = []
    begin = position = 0
    while (end := script.find(";", position)) >= 0:
        opaque = _OPAQUE.search(script, position, len(script))
        if opaque is not None and opaque.start() < end:
            position = opaque.end()
            continue
        statements.append(script[begin:end].strip())
        begin = position = end + 1
    if _leading(rest := script[begin:]) < len(rest):
        raise ValueError(f"a statement has no end: {rest.strip()[:80]}")
    return statements


def classify(text: str) -> Statement:
    """Return a statement with its kind, and what it is about.

    Raises
    ------
    ValueError
        If it is of a kind that an upgrade can't be derived from.
    """
    bare = text[_leading(text) :]
    for kind, form in _FORMS:
        if found := form.match(bare):
            return Statement(text, kind, " ".join(found.groupdict().get("about", "").split()))
    raise ValueError(f"an upgrade can't be derived from: {bare[:80]}")


def signatures(listed: str) -> list[str]:
    """Return the signatures of functions in a list of them, parted by commas."""
    return [" ".join(signature.split()) for signature in re.split(r",(?![^(]*\))", listed)]


def _leading(text: str) -> int:
    found = _LEADING_COMMENTS.match(text)
    return found.end() if found else 0
