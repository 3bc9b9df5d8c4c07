"""The README runs as written, and names every command and function that there is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from helpers.database import Database
from psycopg.conninfo import conninfo_to_dict

from relief_trainer.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sql|sh|)\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def shop(database: Database) -> Database:
    """Return a database whose ordinary role may make the flights' table and has what grant_admin gives."""
    role = database.role("app")
    database.query(f"grant create on schema public to {role}")
    database.query(f"select relief.grant_admin('{role}')")
    database.app = role
    return database


def test_statements_and_commands_of_the_readme_work_in_their_order(shop: Database) -> None:
    connection = shop.connect(shop.app)
    ran = 0
    for position, (language, text) in enumerate(BLOCKS):
        if language == "sql" and "grant_admin" not in text:
            for statement in filter(None, map(str.strip, text.split(";\n"))):
                cursor = connection.execute(statement.rstrip(";"))
                ran += 1
            if cursor.description and position + 1 < len(BLOCKS) and BLOCKS[position + 1][1].startswith(" "):
                _same_table(cursor, BLOCKS[position + 1][1])
        elif language == "sh" and text.startswith("relief "):
            _run(text.strip(), shop)
            ran += 1
    assert ran >= 9


def test_the_readme_names_every_command_and_public_function(database: Database) -> None:
    missing = [name for name in main.commands if f"`relief {name}" not in README]
    public = database.query(
        "select distinct proname from pg_proc where pronamespace = 'relief'::regnamespace and proname !~ '^_'"
    )
    missing += [name for name in public if f"relief.{name}(" not in README]
    assert missing == []


def test_the_readme_names_only_files_that_the_build_writes() -> None:
    from relief_sql.assemble import artefacts

    named = set(re.findall(r"build/([\w.-]+\.sql)", README))
    assert named
    assert named <= set(artefacts())


def _same_table(cursor: psycopg.Cursor, printed: str) -> None:
    """Compare columns and number of rows; scores move with versions of scikit-learn."""
    columns = [name.strip() for name in printed.splitlines()[0].split("|")]
    assert [column.name for column in cursor.description or []] == columns
    counted = re.search(r"\((\d+) rows?\)", printed)
    assert counted is not None
    assert cursor.rowcount == int(counted[1])


def _run(command: str, database: Database) -> None:
    parts = conninfo_to_dict(database.dsn(database.app))
    environment = {**os.environ, "PGDATABASE": parts["dbname"], "PGUSER": parts["user"], "PGHOST": parts["host"]}
    environment |= {"PGPORT": str(parts.get("port", "5432")), "PGPASSWORD": parts["password"]}
    script = Path(sys.executable).with_name("relief")
    finished = subprocess.run(
        [str(script), *shlex.split(command)[1:]], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
