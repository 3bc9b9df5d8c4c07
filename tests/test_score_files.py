"""Files of scores: what they hold in each format, which columns are kept, and how much memory it takes."""

from __future__ import annotations

import csv
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from helpers.sources import ROWS, Places
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from relief_trainer.cli import main
from relief_trainer.errors import ReliefError
from relief_trainer.scoring import Model, find_model, score
from relief_trainer.sources import Row, Source


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Places:
    return Places(tmp_path, request.getfixturevalue)


@pytest.fixture
def model_file(places: Places, tmp_path: Path) -> str:
    path = str(tmp_path / "model.json")
    succeeds("train", "x", "--source", places.fill("parquet"), "--features", "a,b,c", "--trees", "10", "--out", path)
    return path


def succeeds(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


class Listed(Source):
    """Rows of a list; with a batch of each."""

    def __init__(self, names: list[str], batches: list[list[Row]], keys: list[str]) -> None:
        self.name = "list"
        self._names = names
        self._batches = batches
        self._keys = keys

    @classmethod
    def open(cls, uri: str) -> Source:
        return cls(uri.split(","), [], [])

    def columns(self) -> list[str]:
        return self._names

    def keys(self) -> list[str]:
        return self._keys

    def batches(self, columns: Mapping[str, type], rows: int) -> Iterator[Sequence[Row]]:  # noqa: ARG002
        for batch in self._batches:
            yield [[row[self._names.index(name)] for name in columns] for row in batch]


@pytest.fixture
def model(model_file: str) -> Model:
    return find_model(model_file, lambda: None)


def test_the_three_formats_hold_the_same(places: Places, model_file: str, tmp_path: Path) -> None:
    for ending in ("csv", "jsonl", "parquet"):
        succeeds(
            "score", "--source", places.fill("sqlite", name=ending), "--model", model_file,
            "--out", str(tmp_path / f"x.{ending}"), "--keep", "id,note,a", "--batch-rows", "37", "--jobs", "1",
        )  # fmt: skip
    as_parquet = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    as_lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert as_parquet == as_lines
    assert list(as_lines[0]) == ["id", "note", "a", "relief_anomaly_score", "relief_is_anomaly"]
    assert [(line["id"], line["note"], line["a"]) for line in as_lines] == [(row[0], row[4], row[1]) for row in ROWS]
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        for told, line in zip(csv.DictReader(file), as_lines, strict=True):
            assert float(told["relief_anomaly_score"]) == line["relief_anomaly_score"]
            assert told["relief_is_anomaly"] == str(line["relief_is_anomaly"]).lower()
            assert told["note"] == line["note"]
            assert told["a"] == ("" if line["a"] is None else repr(line["a"]))


def test_a_row_without_any_feature_has_no_score_and_no_flag(model: Model, tmp_path: Path) -> None:
    source = Listed(["a", "b", "c"], [[(None, None, None), (float("nan"), None, None), (1.0, 1, 1)]], [])
    for ending in ("csv", "jsonl", "parquet"):
        scored = score(source, model, str(tmp_path / f"x.{ending}"))
        assert (scored.rows, scored.unscored) == (3, 2)
    assert (tmp_path / "x.csv").read_text().splitlines()[1:3] == ["1,,", "2,,"]
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table["relief_anomaly_score"].null_count == table["relief_is_anomaly"].null_count == 2


def test_several_jobs_write_what_one_writes(model: Model, tmp_path: Path) -> None:
    rows = [(float(n % 7), None if n % 5 == 0 else n / 3, float(n)) for n in range(100)]
    source = Listed(["a", "b", "c"], [rows[start : start + 9] for start in range(0, 100, 9)], ["c"])
    told = []
    for jobs in (1, 2, 5):
        scored = score(source, model, str(tmp_path / f"{jobs}.csv"), jobs=jobs)
        told.append((scored.rows, scored.anomalies, (tmp_path / f"{jobs}.csv").read_text()))
    assert told == [told[0]] * 3
    assert told[0][0] == 100


def test_a_wrong_value_far_behind_is_told_and_leaves_no_file(model: Model, tmp_path: Path) -> None:
    source = Listed(["a", "b", "c"], [*[[(1.0, 1, 1)]] * 9, [(1.0, "x", 1)], [(1.0, 1, 1)]], [])
    with pytest.raises(ReliefError, match='column "b" of list') as told:
        score(source, model, str(tmp_path / "x.csv"), jobs=2)
    assert told.value.hint
    assert list(tmp_path.glob("*x.csv*")) == []


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_keys_of_any_type_are_written(model: Model, tmp_path: Path, ending: str) -> None:
    keys = [UUID(int=7), Decimal("1.50"), b"bytes", datetime.date(2024, 1, 31), None, "text", float("inf"), True]
    names = [f"key{number}" for number in range(len(keys))]
    source = Listed([*names, "a", "b", "c"], [[[*keys, 1.0, 2.0, 3.0]]], names)
    path = tmp_path / f"x.{ending}"
    score(source, model, str(path))
    if ending == "parquet":
        (row,) = (list(line.values()) for line in parquet.read_table(path).to_pylist())
        assert row[:-2] == [str(keys[0]), "1.50", "bytes", keys[3], None, "text", float("inf"), True]
    elif ending == "jsonl":
        row = list(json.loads(path.read_text()).values())
        assert row[:-2] == [str(keys[0]), "1.50", "bytes", "2024-01-31", None, "text", "inf", True]
    else:
        assert path.read_text().splitlines()[1].startswith(f"{keys[0]},1.50,bytes,2024-01-31,,text,inf,true,")


def test_a_key_that_is_missing_at_first_becomes_a_text_in_parquet(model: Model, tmp_path: Path) -> None:
    batches: list[list[Row]] = [[(None, 1, 1, 1)], [(7, 1, 1, 1)]]
    score(Listed(["key", "a", "b", "c"], batches, ["key"]), model, str(tmp_path / "x.parquet"))
    assert parquet.read_table(tmp_path / "x.parquet")["key"].to_pylist() == [None, "7"]


def test_a_key_that_changes_its_type_is_told(model: Model, tmp_path: Path) -> None:
    source = Listed(["key", "a", "b", "c"], [[(7, 1, 1, 1)], [("seven", 1, 1, 1)]], ["key"])
    with pytest.raises(ReliefError, match='column "key" holds values of several types') as caught:
        score(source, model, str(tmp_path / "x.parquet"))
    assert caught.value.hint == "Write a .csv or .jsonl file instead."
    score(source, model, str(tmp_path / "x.csv"))
    assert not list(tmp_path.glob(".x.*"))


def test_a_file_of_scores_may_be_read_by_whom_new_files_may_be(model: Model, tmp_path: Path) -> None:
    score(Listed(["a", "b", "c"], [[(1, 1, 1)]], []), model, str(tmp_path / "x.csv"))
    usual = tmp_path / "usual"
    usual.touch()
    assert (tmp_path / "x.csv").stat().st_mode == usual.stat().st_mode


def test_a_feature_may_be_kept_beside_its_score(places: Places, model_file: str, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    succeeds("score", "--source", places.fill("hashes"), "--model", model_file, "--out", str(out), "--keep", "b,key")
    lines = {json.loads(line)["key"]: json.loads(line)["b"] for line in out.read_text().splitlines()}
    assert lines["orders:1"] == ROWS[0][2]
    assert lines["orders:23"] is None


PEAK = """
import pathlib, sys
from relief_trainer.cli import main
source, model, out = sys.argv[1:]
small = ["--features", "a,b,c", "--trees", "5", "--sample-rows", "1000"]
main(["train", "x", "--source", source, *small, "--out", model], standalone_mode=False)
main(["score", "--source", source, "--model", model, "--out", out, "--batch-rows", "1000"], standalone_mode=False)
# Unlike ru_maxrss, this knows nothing of the process that this one was forked from.
status = pathlib.Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024, file=sys.stderr)
"""


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_source(tmp_path: Path, ending: str) -> None:
    megabytes = []
    for rows in (1_000, 40_000):
        path = tmp_path / f"{rows}.{ending}"
        columns = np.random.default_rng(0).normal(size=(3, rows))
        table = pa.table({**dict(zip("abc", columns, strict=True)), "note": ["x" * 5_000] * rows})
        if ending == "csv":
            arrow_csv.write_csv(table, path)
        else:
            parquet.write_table(table, path, row_group_size=1_000)
        files = [str(path), str(tmp_path / "x.json"), str(tmp_path / f"scores.{ending}")]
        finished = subprocess.run([sys.executable, "-c", PEAK, *files], capture_output=True, text=True, check=True)
        megabytes.append(int(finished.stderr.split()[-1]))
    few, many = megabytes
    assert many < few + 100  # of 200 that the file has
