"""Assemble the install scripts from ``schema/*.sql`` and the runtime's modules.

``python -m relief_sql.assemble DIRECTORY`` writes

``relief-<version>-install.sql``         for ``psql -f``, where the server's file system can't be reached
``relief--<version>.sql``, ``relief.control``  for ``CREATE EXTENSION relief``

The same sources always give the same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import sys
from pathlib import Path

from relief_runtime import __version__

RUNTIME_MODULES = (
    "relief_runtime",
    "relief_runtime.document",
    "relief_runtime.encoder",
    "relief_runtime.explain",
    "relief_runtime.forest",
    "relief_runtime.judgement",
    "relief_runtime.light",
    "relief_runtime.ordinary",
    "relief_runtime.packed",
    "relief_runtime.session",
    "relief_runtime.telling",
    "relief_runtime.trees",
)


def install_script() -> str:
    """Return the script that installs Relief in a database, in one transaction, without the server's file system."""
    return "\n".join(
        [
            f"-- Relief {__version__}, to be run by a superuser:",
            f"--   psql -v ON_ERROR_STOP=1 -f relief-{__version__}-install.sql",
            "begin;",
            "set local client_min_messages = warning;",
            "set local search_path = pg_catalog, pg_temp;",
            # As CREATE EXTENSION has it: functions may call others that are made later.
            "set local check_function_bodies = off;",
            "create extension if not exists plpython3u;",
            "create schema relief;",
            "comment on schema relief is 'Relief: anomaly detection inside PostgreSQL.';",
            _schema_script(),
            "commit;",
            "",
        ]
    )


def extension_script() -> str:
    """Return the script that CREATE EXTENSION runs."""
    return "\n".join(
        [
            r'\echo Use "CREATE EXTENSION relief CASCADE" to load this file. \quit',
            "comment on schema relief is 'Relief: anomaly detection inside PostgreSQL.';",
            _schema_script(),
            _read("extension.sql"),
        ]
    )


def control_file() -> str:
    """Return the extension's control file."""
    return (
        "comment = 'anomaly detection inside PostgreSQL: isolation forests that score rows as they are written'\n"
        f"default_version = '{__version__}'\n"
        "requires = 'plpython3u'\n"
        "schema = relief\n"
        "relocatable = false\n"
        "superuser = true\n"
    )


def artefacts() -> dict[str, str]:
    """Return the name and content of every file that a build writes."""
    return {
        f"relief-{__version__}-install.sql": install_script(),
        f"relief--{__version__}.sql": extension_script(),
        "relief.control": control_file(),
    }


def _schema_script() -> str:
    schema = importlib.resources.files("relief_sql") / "schema"
    files = sorted(file.name for file in schema.iterdir() if file.name.endswith(".sql"))
    return _embed_runtime("\n".join(_read(f"schema/{name}") for name in files))


def _embed_runtime(script: str) -> str:
    sources = [(name, _module_source(name)) for name in RUNTIME_MODULES]
    digest = hashlib.sha256(repr(sources).encode()).hexdigest()[:16]
    literal = "{\n" + "".join(f"            {name!r}: {source!r},\n" for name, source in sources) + "        }"
    if "$python$" in literal:
        raise ValueError("the runtime's sources contain the quote that holds them, $python$")
    # The key changes with the sources: a session that is open across an upgrade loads the new ones.
    return script.replace("{{runtime_key}}", f"relief {digest}").replace("{{runtime_sources}}", literal)


def _module_source(name: str) -> str:
    package, _, module = name.partition(".")
    return (importlib.resources.files(package) / f"{module or '__init__'}.py").read_text(encoding="utf-8")


def _read(name: str) -> str:
    return importlib.resources.files("relief_sql").joinpath(name).read_text(encoding="utf-8")


def main(directory: str) -> None:
    """Write the artefacts into a directory."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in artefacts().items():
        (target / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
