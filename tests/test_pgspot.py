"""The generated SQL names nothing in a way that lets somebody's object be taken for ours."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pglast import split
from relief_sql.assemble import install_script

# What pgspot 0.9 fails to parse, and the catalog test shows to pin its search_path, but for those it names as unpinned.
UNPARSED = {
    "suggest_threshold(": "a column called precision",
    "_scaled(": "a body by return",
    "_allowance(": "a body by return",
    "_is_unread(": "a body by return",
    "_float8(value numeric)": "a body by return",
    "_float8(value double precision)": "a body by return",
    "_start_scoring(": "a body by return",
    "_fetch(": "a body by return",
    "_fetch_telling(": "a body by return",
    "_fetch_with_rule(": "a body by return",
    "_fetch_explainer(": "a body by return",
    "_probe_feature(": "a cursor for a dynamic query",
    "_check_feature(": "an assignment to a field of a composite variable",
    "_check_detector(": "return next",
}
OPTIONS = [
    # Three functions of pure Python, without any SQL.
    "--ignore-lang=plpython3u",
    # A procedure that commits can't pin its search_path.
    "--proc-without-search-path=relief.backfill(detector text,batch_rows integer)",
]


def _spot(script: str, place: Path) -> subprocess.CompletedProcess[str]:
    place.write_text(script)
    return subprocess.run(
        [Path(sys.executable).parent / "pgspot", *OPTIONS, place], capture_output=True, text=True, check=False
    )


def test_install_script_is_clean(tmp_path: Path) -> None:
    statements = split(install_script())
    unparsed = re.compile(rf"create function relief\.({'|'.join(map(re.escape, UNPARSED))})")
    parsed = [statement for statement in statements if not unparsed.search(statement)]
    assert len(parsed) == len(statements) - len(UNPARSED)
    spotted = _spot(";\n".join([*parsed, ""]), tmp_path / "install.sql")
    assert "Errors: 0 Warnings: 0 Unknown: 0" in spotted.stdout, spotted.stdout + spotted.stderr
    assert spotted.returncode == 0


def test_what_pgspot_would_find_is_found(tmp_path: Path) -> None:
    careless = "create function relief.f() returns text language sql security definer as $$select now()::text$$;"
    assert "PS" in _spot(careless, tmp_path / "careless.sql").stdout
