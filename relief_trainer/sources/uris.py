"""URIs of sources: take them apart, and show them without what is secret."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, quote, urlencode

from relief_trainer.errors import ReliefError


def scheme(uri: str) -> str:
    """Return what is before ``://``, lower-case; ``file`` where nothing is."""
    matched = re.match(r"([A-Za-z][A-Za-z0-9+._-]*)://", uri)
    return matched[1].lower() if matched else "file"


def with_environment(uri: str) -> str:
    """Return a URI in which ``${NAME}`` is what the environment says, quoted: no password need be typed.

    Raises
    ------
    ReliefError
        If the environment has no such variable.
    """

    def value(matched: re.Match[str]) -> str:
        found = os.environ.get(matched[1])
        if found is None:
            raise ReliefError(f"the environment has no variable {matched[1]}", f"export {matched[1]}=…")
        return quote(found, safe="")

    return re.sub(r"\$\{(\w+)\}", value, uri) if "://" in uri else uri


def without_secrets(uri: str) -> str:
    """Return a URI without user, password and parameters, to be shown and stored."""
    return re.sub(r"(?<=://)[^/?#]*@", "", uri.partition("?")[0])


def parameters(uri: str, *allowed: str) -> tuple[str, dict[str, str]]:
    """Return a URI without the parameters of these names, and the parameters."""
    base, _, text = uri.partition("?")
    pairs = parse_qsl(text, keep_blank_values=True)
    rest = urlencode([pair for pair in pairs if pair[0] not in allowed])
    return (f"{base}?{rest}" if rest else base), {name: value for name, value in pairs if name in allowed}


def take_parameter(uri: str, name: str, example: str) -> tuple[str, str]:
    """Return a URI without one parameter, and that parameter, which must be there."""
    rest, found = parameters(uri, name)
    if not found.get(name):
        raise ReliefError(f"{without_secrets(uri)} doesn't say which {name} to read", f"Add to the URI: {example}")
    return rest, found[name]
