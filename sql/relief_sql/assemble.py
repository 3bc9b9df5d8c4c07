"""Assemble the install scripts from ``schema/*.sql`` and the runtime's modules.

``python -m relief_sql.assemble DIRECTORY`` writes

``relief-<version>-install.sql``         for ``psql -f``, where the server's file system can't be reached
``relief--<version>.sql``, ``relief.control``  for ``CREATE EXTENSION relief``
``relief-<from>-<version>-upgrade.sql``  for ``psql -f``, where the release before is installed
``relief--<from>--<version>.sql``        for ``ALTER EXTENSION relief UPDATE``
``relief-<version>-uninstall.sql``       for ``psql -f``, however Relief was installed

The same sources always give the same bytes.

``python -m relief_sql.assemble --objects`` prints what a release consists of, which is kept for the upgrade to the next
one as ``migrations/<version>.txt``.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
import sys
from pathlib import Path

from relief_runtime import __version__

from relief_sql.upgrade import objects, upgrade

RUNTIME_MODULES = (
    "relief_runtime",
    "relief_runtime.allowance",
    "relief_runtime.document",
    "relief_runtime.encoder",
    "relief_runtime.explain",
    "relief_runtime.forest",
    "relief_runtime.judgement",
    "relief_runtime.light",
    "relief_runtime.ordinary",
    "relief_runtime.packed",
    "relief_runtime.proof",
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
            _filled_in(_schema()),
            "commit;",
            "",
        ]
    )


def extension_script() -> str:
    """Return the script that CREATE EXTENSION runs."""
    return "\n".join(
        [
            r'\echo Use "CREATE EXTENSION relief CASCADE" to load this file. \quit',
            _read("before_extension.sql"),
            "comment on schema relief is 'Relief: anomaly detection inside PostgreSQL.';",
            _filled_in(_schema()),
            _read("extension.sql"),
        ]
    )


def previous_version() -> str:
    """Return the release that the upgrade scripts start from: the one that there is a step from."""
    (step,) = (name for name in _names("migrations") if name.endswith(f"--{__version__}.sql"))
    return step.partition("--")[0]


def upgrade_script() -> str:
    """Return the script that upgrades what the release before installed by script, in one transaction."""
    before = previous_version()
    return "\n".join(
        [
            f"-- Relief {before} to {__version__}, where no CREATE EXTENSION installed it; to be run by a superuser:",
            f"--   psql -v ON_ERROR_STOP=1 -f relief-{before}-{__version__}-upgrade.sql",
            "-- and then: select relief.regenerate();",
            "begin;",
            "set local client_min_messages = warning;",
            "set local search_path = pg_catalog, pg_temp;",
            "set local check_function_bodies = off;",
            _filled_in(_read("upgrade.sql")),
            _upgrade(),
            "commit;",
            "",
        ]
    )


def extension_upgrade_script() -> str:
    """Return the script that ALTER EXTENSION UPDATE runs."""
    usage = r'\echo Use "ALTER EXTENSION relief UPDATE" to load this file. \quit'
    return "\n".join([usage, _upgrade(), _read("extension.sql")])


def uninstall_script() -> str:
    """Return the script that takes Relief out of a database again, in one transaction, however it was installed."""
    call = f"psql -v ON_ERROR_STOP=1 -f relief-{__version__}-uninstall.sql"
    return "\n".join(
        [
            "-- Takes Relief out of a database, with all models, histories, labels, events; to be run by a superuser:",
            f"--   {call}",
            "-- The users' tables stay as they are, with the columns that Relief filled, unless those are to go too:",
            "--   " + call.replace(" -f", " -c 'set relief.drop_columns = on' -f"),
            "begin;",
            "set local client_min_messages = warning;",
            "set local search_path = pg_catalog, pg_temp;",
            _read("uninstall.sql"),
            "commit;",
            "",
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
    before = previous_version()
    return {
        f"relief-{__version__}-install.sql": install_script(),
        f"relief-{before}-{__version__}-upgrade.sql": upgrade_script(),
        f"relief-{__version__}-uninstall.sql": uninstall_script(),
        f"relief--{__version__}.sql": extension_script(),
        f"relief--{before}--{__version__}.sql": extension_upgrade_script(),
        "relief.control": control_file(),
    }


def _schema() -> str:
    return "\n".join(_read(f"schema/{name}") for name in _names("schema"))


def _upgrade() -> str:
    before = previous_version()
    step = _read(f"migrations/{before}--{__version__}.sql")
    return _filled_in(upgrade(_schema(), step, _read(f"migrations/{before}.txt").splitlines()))


def _filled_in(script: str) -> str:
    """Put into a script what stands in one place: versions, and the runtime's sources."""
    sources = [(name, _module_source(name)) for name in RUNTIME_MODULES]
    digest = hashlib.sha256(repr(sources).encode()).hexdigest()[:16]
    literal = "{\n" + "".join(f"            {name!r}: {source!r},\n" for name, source in sources) + "        }"
    if "$python$" in literal:
        raise ValueError("the runtime's sources contain the quote that holds them, $python$")
    key = f"relief {digest}"
    older = "name for name in reversed(list(GD)) if str(name).startswith('relief ')"
    facts = {
        "version": __version__,
        "previous_version": previous_version(),
        # The key changes with the sources: a session that is open across an upgrade loads the new ones.
        "runtime_key": key,
        # In the midst of a row when an upgrade is committed, a session scores that with the runtime that it has.
        "runtime": f"(GD.get({key!r}) or GD[next(({older}), {key!r})])",
        "runtime_sources": literal,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda named: facts[named[1]], script)


def _module_source(name: str) -> str:
    package, _, module = name.partition(".")
    return (importlib.resources.files(package) / f"{module or '__init__'}.py").read_text(encoding="utf-8")


def _names(folder: str) -> list[str]:
    place = importlib.resources.files("relief_sql") / folder
    return sorted(file.name for file in place.iterdir() if file.name.endswith(".sql"))


def _read(name: str) -> str:
    return importlib.resources.files("relief_sql").joinpath(name).read_text(encoding="utf-8")


def main(directory: str) -> None:
    """Write the artefacts into a directory."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in artefacts().items():
        (target / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--objects":
        print(*objects(_schema()), sep="\n")
    else:
        main(sys.argv[1])
