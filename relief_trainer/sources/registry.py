"""Find who reads a URI: built-in sources, and those of other packages, by the entry point group ``relief.sources``."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from relief_trainer.errors import ReliefError
from relief_trainer.sources import uris
from relief_trainer.sources.packages import told_missing_packages
from relief_trainer.sources.source import Source

GROUP = "relief.sources"


def open_source(uri: str) -> Source:
    """Return the source of a URI, in which ``${NAME}`` stands for a variable; a path without a scheme is a file's.

    Raises
    ------
    ReliefError
        If no source takes the URI's scheme, if its package isn't installed, or if there is nothing to be read.
    """
    uri = uris.with_environment(uri)
    scheme = uris.scheme(uri)
    with told_missing_packages(f"{scheme} sources"):
        source: type[Source] = _entry_point(scheme).load()
        return source.open(uri)


def _entry_point(scheme: str) -> EntryPoint:
    """Return the entry point of a scheme: of the whole one, as ``mysql+pymysql``, or of what is before the plus."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    for name in (scheme, scheme.split("+")[0]):
        if name in found:
            return found[name]
    if _is_sqlalchemy_dialect(scheme):
        return EntryPoint(scheme, "relief_trainer.sources.database:DatabaseSource", GROUP)
    raise ReliefError(
        f'no source takes URIs of the scheme "{scheme}"',
        f"There are: {', '.join(sorted(found))}, and paths of files. "
        "Another package can bring more: see relief_trainer.sources.Source.",
    )


def _is_sqlalchemy_dialect(scheme: str) -> bool:
    try:
        from sqlalchemy.dialects import registry
        from sqlalchemy.exc import NoSuchModuleError
    except ModuleNotFoundError:
        return False
    try:
        registry.load(scheme.replace("+", "."))
    except (NoSuchModuleError, ImportError):
        return False
    return True
