"""Documents that a release before trained are loaded and scored with, for ever."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.database import Database, query
from helpers.releases import DATA, DOCUMENTS, kept_document, kept_scores

from relief_trainer.cli import main

TYPES = {"amount": "float8", "weight": "float8", "hour": "float8", "country": "text", "kind": "text"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_of_format_1_scores_as_it_did(database: Database, name: str, tmp_path: Path) -> None:
    features = [feature["name"] for feature in json.loads(kept_document(name).document)["features"]]
    database.query(f"create table {name} ({', '.join(f'{feature} {TYPES[feature]}' for feature in features)})")
    database.query("select relief.create_detector(%s, %s, %s)", name, name, features)
    exported = tmp_path / "exported.json"
    exported.write_bytes(gzip.decompress((DATA / "documents" / f"{name}.json.gz").read_bytes()))
    imported = CliRunner().invoke(main, ["import", str(exported), "--dsn", database.dsn()])
    assert imported.exit_code == 0, imported.output
    # It brings no rows along whose scores could be compared.
    database.query("select relief.promote(%s, force => true)", name)

    scored = kept_scores(name)
    database.query("select relief.attach(%s)", name)
    for row, _ in scored:
        statement = f"insert into {name} select (jsonb_populate_record(null::{name}, %s)).*"
        query(database.superuser, statement, json.dumps(row))
    scores = database.query(f"select relief_anomaly_score from {name} order by ctid")
    # The last bit of a power depends on the server's mathematical library.
    assert scores == [score if score is None else pytest.approx(score, rel=1e-14) for _, score in scored]
    assert database.query(f"select relief_score(o) from {name} as o order by ctid") == scores
    assert len({score for score in scores if score is not None}) > 20
