"""Sources that can't be read, and commands that can't be meant: each is told in one line and a hint."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.database import Database
from helpers.sources import KINDS, ROWS, Places

from relief_trainer.cli import main
from relief_trainer.errors import ReliefError
from relief_trainer.sources import open_source

TRAIN = ("--features", "a,b,c", "--trees", "5", "--out")


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Places:
    return Places(tmp_path, request.getfixturevalue)


def refusal(*arguments: str) -> tuple[str, str]:
    """Run a command that fails, and return its error and its hint."""
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    assert len(lines) == 2, result.stderr
    return lines[0].removeprefix("error: "), lines[1].removeprefix("hint: ")


def not_opened(uri: str) -> tuple[str, str]:
    with pytest.raises(ReliefError) as caught:
        open_source(uri).close()
    return str(caught.value), caught.value.hint or ""


@pytest.mark.parametrize(
    ("uri", "message", "hint"),
    [
        ("mongodb://host/shop", 'no source takes URIs of the scheme "mongodb"', "There are: file, mariadb,"),
        ("nowhere.csv", "there is no file nowhere.csv", "Give a path, or a URI such as"),
        ("nope.xls", "nope.xls is of no format that can be read", "Files end in .parquet, .pq, .csv, "),
        ("file:///nowhere.csv", "there is no file /nowhere.csv", "Give a path, or a URI such as"),
        ("mysql://app:secret@host/shop", "mysql://host/shop doesn't say which table to read", "?table=orders"),
        ("postgresql://app:secret@host/shop", "postgresql://host/shop doesn't say which table", "?table=schema.table"),
        ("redis://:secret@host/0", "redis://host/0 doesn't say which hashes or stream to read", "?hashes=order:*"),
        ("redis://h/0?hashes=a&stream=b", "redis://h/0 doesn't say which hashes or stream", "?stream=orders"),
        ("redis://:secret@host:port/0?stream=s", "redis://host:port/0 is not a URI of Redis", "redis://host:6379/0"),
        ("sqlite:////nowhere.db?table=t", "table t of sqlite:////nowhere.db cannot be read: there is no file", "Four"),
        ("mysql://a:secret@host:port/b?table=t", "mysql://host:port/b is not a database's URL", "For example: sqlite:"),
        ("mysql://a:${NO_SUCH}@host/b?table=t", "the environment has no variable NO_SUCH", "export NO_SUCH="),
        (
            "oracle+cx_oracle://h/s?table=t",
            "oracle+cx_oracle sources need the package cx_oracle",
            "pip install cx_oracle",
        ),
        (
            "mysql://a:secret@127.0.0.1:1/b?table=t",
            "table t of mysql://127.0.0.1:1/b cannot be read: Can't",
            "Check host",
        ),
        (
            "redis://:secret@127.0.0.1:1/0?stream=s",
            "stream s of redis://127.0.0.1:1/0 cannot be read: Error",
            "Check host",
        ),
        (
            "postgresql://a:secret@127.0.0.1:1/b?table=t",
            "cannot reach the server: ",
            "Check host, port, user and database",
        ),
    ],
)
def test_what_cannot_be_opened_is_told_without_its_password(uri: str, message: str, hint: str) -> None:
    told, advice = not_opened(uri)
    assert told.startswith(message)
    assert hint in advice
    assert "secret" not in told + advice
    assert "\n" not in told


@pytest.mark.parametrize(
    ("package", "uri", "extra"),
    [
        ("pyarrow", "orders.csv", "files"),
        ("sqlalchemy", "sqlite:///shop.db?table=orders", "sql"),
        ("pymysql", "mysql://host/shop?table=orders", "mysql"),
        ("redis", "redis://host/0?stream=orders", "redis"),
    ],
)
def test_a_package_that_is_missing_is_told_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, uri: str, extra: str
) -> None:
    for module in list(sys.modules):
        if module.startswith("relief_trainer.sources.") and module.rpartition(".")[2] in ("files", "database", "redis"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    told, advice = not_opened(uri)
    assert f"sources need the package {package}, which is not installed" in told
    assert advice == f'Install it: pip install {package} (which is in Relief\'s extra "{extra}")'


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_missing_is_told_with_those_that_there_are(places: Places, tmp_path: Path, kind: str) -> None:
    uri = places.fill(kind)
    told, advice = refusal("train", "x", "--source", uri, "--features", "a,amount", "--out", str(tmp_path / "x.json"))
    assert told.endswith('has no column "amount"')
    assert advice.startswith("The columns are: ")
    assert {"a", "b", "c", "note"} <= set(advice.removeprefix("The columns are: ").rstrip(".").split(", "))


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_texts_is_no_feature(places: Places, tmp_path: Path, kind: str) -> None:
    model = str(tmp_path / "x.json")
    told, advice = refusal("train", "x", "--source", places.fill(kind), "--features", "a,note", "--out", model)
    assert told.startswith('column "note" of ')
    assert "holds \"o'" in told
    assert told.endswith(", which is not a number")
    assert advice == "Leave it out of the features, or train with it as a category: --categories note"
    assert not Path(model).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_source_trains_nothing(places: Places, tmp_path: Path, kind: str) -> None:
    told, _ = refusal("train", "x", "--source", places.fill(kind, rows=[]), *TRAIN, str(tmp_path / "x.json"))
    # A text file without a byte has no columns either.
    assert told.endswith("has no rows") or (kind == "jsonl" and "Empty JSON" in told)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "sqlite", "parquet", "csv"])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_scoring_an_empty_source_writes_an_empty_file_and_warns(
    places: Places, tmp_path: Path, kind: str, ending: str
) -> None:
    model, out = str(tmp_path / "x.json"), tmp_path / f"scores.{ending}"
    trained = CliRunner().invoke(main, ["train", "x", "--source", places.fill("stream"), *TRAIN, model])
    assert trained.exit_code == 0
    result = CliRunner().invoke(
        main, ["score", "--source", places.fill(kind, rows=[], name="none"), "--model", model, "--out", str(out)]
    )
    assert result.exit_code == 0
    assert "has no rows" in result.stderr
    if ending == "jsonl":
        assert out.read_bytes() == b""
        return
    with open_source(str(out)) as source:
        assert source.columns()[-2:] == ["relief_anomaly_score", "relief_is_anomaly"]
        assert list(source.batches({"relief_anomaly_score": float}, 10)) == []


def test_too_few_rows_and_rows_that_do_not_vary_are_refused(places: Places, tmp_path: Path) -> None:
    model = str(tmp_path / "x.json")
    told, hint = refusal("train", "x", "--source", places.fill("csv", ROWS[:3]), *TRAIN, model)
    assert told == f'detector "x" has 3 rows to train on in file {tmp_path}/orders.csv, fewer than 10'
    assert hint == "Give a source that has more rows."
    told, _ = refusal("train", "x", "--source", places.fill("csv", [ROWS[0]] * 20), *TRAIN, model)
    assert told == 'every feature of detector "x" is constant or missing in the 20 rows drawn'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"not parquet at all", "cannot be read: "),
        ("x.csv", b"a,b,c\n1,2,3\n4,5\n", "cannot be read: CSV parse error"),
        ("x.csv", b"a,b,c\n" + b"1,2,3\n" * 500_000 + b"x,2,3\n", "cannot be read: "),
        ("x.jsonl", b'{"a": 1\n{"a": 2}\n', "cannot be read: JSON parse error"),
        ("x.jsonl", b'{"a": 1, "b": 1, "c": 1}\n' * 100_000 + b'{"a": "x", "b": 1, "c": 1}\n', "cannot be read: JSON"),
        ("x.txt", b"a,b,c\n", "is of no format that can be read"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    told, advice = refusal("train", "x", "--source", str(path), *TRAIN, str(tmp_path / "x.json"))
    assert message in told
    assert str(path) in told
    assert advice


def test_a_row_that_cannot_be_scored_ends_the_command_and_leaves_no_file(places: Places, tmp_path: Path) -> None:
    model, out = str(tmp_path / "x.json"), tmp_path / "out" / "scores.csv"
    out.parent.mkdir()
    out.write_text("what was there")
    uri = places.fill("stream")
    assert CliRunner().invoke(main, ["train", "x", "--source", uri, *TRAIN, model]).exit_code == 0
    damaged = places.fill("stream", [*ROWS, (301, "many", 1, 1, "x", "x")])
    told, _ = refusal("score", "--source", damaged, "--model", model, "--out", str(out), "--batch-rows", "50")
    assert told == f'column "a" of {damaged_name(damaged)} holds "many", which is not a number'
    assert [path.name for path in out.parent.iterdir()] == ["scores.csv"]
    assert out.read_text() == "what was there"


def damaged_name(uri: str) -> str:
    return f"stream orders of {uri.partition('?')[0]}"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--features", "a"], "--features is for training on a --source", "A detector has its own"),
        (["--out", "x.json"], "--out is for training on a --source", "Train, then: relief export x --json x.json"),
        (["--source", "x.csv", "--features", "a"], "--features and --out go together", "Give both"),
        (["--source", "x.csv", "--out", "x.json"], "--features and --out go together", "Give both"),
        (
            ["--source", "x.csv", "--where", "a > 1"],
            "--where and --since are for the detector's own table",
            "Give a view",
        ),
        (
            ["--source", "x.csv", "--since", "2024-01-01"],
            "--where and --since are for the detector's own table",
            "Give",
        ),
        (
            ["--source", "x.csv", "--features", "a", "--out", "x.json", "--promote"],
            "--promote is for a model in the database",
            "First: relief import x.json",
        ),
        (["--categories", "a"], "--categories are some of --features", "A detector knows its own"),
        (
            ["--source", "{csv}", "--features", "a", "--categories", "land", "--out", "x.json"],
            'category "land" is not one of the features',
            "Add it: --features a,land",
        ),
        (["--source", "{csv}", "--features", "a,a", "--out", "x.json"], 'feature "a" is given twice', "Give each"),
        (
            ["--source", "{csv}", "--features", "a", "--out", "/nowhere/x.json"],
            "cannot write /nowhere/x.json: No such",
            "Name a folder",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    places: Places, arguments: list[str], message: str, hint: str
) -> None:
    csv = places.fill("csv")
    told, advice = refusal("train", "x", *(csv if part == "{csv}" else part for part in arguments))
    assert told.startswith(message)
    assert advice.startswith(hint)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--out", "{folder}/x.xlsx"], "cannot tell the format of ", "Let it end in .csv, .jsonl, .parquet."),
        (["--out", "/nowhere/x.csv"], "cannot write /nowhere/x.csv: No such file or directory", "Give --out another"),
        (["--out", "{folder}/x.csv", "--keep", "amount"], "file ", "The columns are: id, a, b, c, note, land."),
        (
            ["--out", "{folder}/x.csv", "--keep", "id,id"],
            'column "id" would be written twice',
            "Leave it out of --keep",
        ),
        (
            ["--out", "{folder}/x.csv", "--model", "/nowhere.json"],
            "cannot read /nowhere.json: No such",
            "Export a model",
        ),
        (["--out", "{folder}/x.csv", "--model", "{folder}/orders.csv"], "the file is not an exported model", "Export"),
    ],
)
def test_scoring_that_cannot_end_well_is_not_begun(
    places: Places, tmp_path: Path, arguments: list[str], message: str, hint: str
) -> None:
    model, uri = str(tmp_path / "x.json"), places.fill("csv")
    assert CliRunner().invoke(main, ["train", "x", "--source", uri, *TRAIN, model]).exit_code == 0
    filled = [part.replace("{folder}", str(tmp_path)) for part in arguments]
    told, advice = refusal("score", "--source", uri, "--model", model, *filled)
    assert told.startswith(message)
    assert advice.startswith(hint)


def test_a_detector_without_a_promoted_model_scores_nothing(database: Database, places: Places, tmp_path: Path) -> None:
    uri = places.fill("postgresql")
    database.query("select relief.create_detector('orders', 'public.orders', array['a', 'b', 'c'])")
    score = ("score", "--source", uri, "--out", str(tmp_path / "x.csv"), "--dsn", database.dsn(), "--model")
    assert refusal(*score, "orders") == (
        'detector "orders" has no promoted model',
        "Promote one: relief promote orders",
    )
    assert refusal(*score, "nope") == ('detector "nope" does not exist', "List the detectors: relief list")


def test_a_table_that_is_not_there_is_told_with_those_that_are(places: Places) -> None:
    told, advice = not_opened(places.fill("sqlite").replace("table=orders", "table=order"))
    assert "table order of sqlite:///" in told
    assert told.endswith("does not exist")
    assert advice == "There are: orders."
    told, advice = not_opened(places.fill("postgresql").replace("table=orders", "table=order"))
    assert "does not exist" in told
    assert "?table=schema.table" in advice


def test_hashes_that_no_key_matches_are_told(places: Places, tmp_path: Path) -> None:
    uri = places.fill("hashes").replace("hashes=orders:*", "hashes=order:*")
    told, advice = refusal("train", "x", "--source", uri, *TRAIN, str(tmp_path / "x.json"))
    assert told.startswith("hashes order:* of redis+unix://")
    assert told.endswith("has no rows")
    assert "pattern" in advice


def test_a_superuser_is_refused_for_another_roles_table_of_a_source_too(database: Database, places: Places) -> None:
    uri = places.fill("postgresql")
    owner = database.role("owner")
    database.query(f"alter table orders owner to {owner}")
    told, advice = not_opened(uri)
    assert "is a superuser, and table orders belongs to" in told
    assert advice == f'Connect as a role that has the rights of "{owner}".'


def test_moments_are_no_features(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("at,a\n2024-01-01,1\n2024-01-02,2\n")
    told, advice = refusal("train", "x", "--source", str(path), "--features", "at", "--out", str(tmp_path / "x.json"))
    assert told == f'column "at" of file {path} holds "2024-01-01", which is not a number'
    assert advice == "A moment never comes again; give a column of what recurs, such as the hour of day."
