"""Packages that only some sources need: tell which one is missing, and how to get it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from relief_trainer.errors import ReliefError

# A package -> the extra of Relief that brings it.
EXTRAS = {"pyarrow": "files", "pymysql": "mysql", "redis": "redis", "sqlalchemy": "sql"}


@contextlib.contextmanager
def told_missing_packages(needing: str) -> Iterator[None]:
    """Turn the error of a package that isn't installed into a `ReliefError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).split(".")[0].lower()
        hint = f"Install it: pip install {package}"
        if package in EXTRAS:
            hint += f' (which is in Relief\'s extra "{EXTRAS[package]}")'
        raise ReliefError(f"{needing} need the package {package}, which is not installed", hint) from None
