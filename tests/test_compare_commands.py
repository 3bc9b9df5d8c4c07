"""The commands ``relief backtest`` and ``relief thresholds``: what is read, parsed, and looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.database import Database, query
from helpers.forests import train
from helpers.shop import make_orders

from relief_trainer.cli import main


@pytest.fixture
def shop(database: Database) -> Database:
    """Return a database with two versions of the detector "orders", version 1 promoted, and labels of both kinds."""
    make_orders(database.superuser, rows=200)
    for seed in (1, 2):
        train(database.superuser, "orders", seed=seed, promote=seed == 1)
    query(
        database.superuser,
        "select relief.label('orders', jsonb_build_object('id', id), id % 3 = 0) from shop.orders where id < 40",
    )
    return database


def relief(database: Database, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--dsn", database.dsn()], catch_exceptions=False)


def succeeds(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_backtest_prints_a_figure_a_line_and_json_that_can_be_piped(shop: Database) -> None:
    lines = succeeds(relief(shop, "backtest", "orders")).splitlines()
    assert lines[0].split() == ["figure", "candidate", "promoted", "meaning"]
    assert lines[1].split()[:3] == ["version", "2", "1"]
    told = json.loads(succeeds(relief(shop, "backtest", "orders", "2", "--json", "-k", "5")))
    expected = query(shop.superuser, "select figure, candidate, promoted from relief.backtest('orders', 2, k => 5)")
    assert told == {
        "detector": "orders",
        "candidate": {figure: candidate for figure, candidate, _ in expected},
        "promoted": {figure: promoted for figure, _, promoted in expected},
    }


def test_thresholds_prints_a_line_each_and_json_that_can_be_piped(shop: Database) -> None:
    lines = succeeds(relief(shop, "thresholds", "orders")).splitlines()
    assert lines[0].split() == ["threshold", "precision", "recall", "f1", "alert_rate", "remark"]
    told = json.loads(succeeds(relief(shop, "thresholds", "orders", "2", "--json")))
    assert len(told) == len(query(shop.superuser, "select from relief.suggest_threshold('orders', 2)"))
    assert sum("in use" in (row["remark"] or "") for row in told) == 1


@pytest.mark.parametrize("command", ["backtest", "thresholds"])
@pytest.mark.parametrize(("ending", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_plot_is_drawn_beside_what_is_printed(
    shop: Database, tmp_path: Path, command: str, ending: str, begins: bytes
) -> None:
    file = tmp_path / f"drawn{ending}"
    printed = succeeds(relief(shop, command, "orders", "--plot", str(file)))
    assert printed == succeeds(relief(shop, command, "orders"))
    drawn = file.read_bytes()
    assert drawn.startswith(begins)
    assert len(drawn) > 5000


def test_a_version_alone_is_drawn_too(shop: Database, tmp_path: Path) -> None:
    shop.query("update relief.detector set promoted_version = null")
    file = tmp_path / "alone.svg"
    succeeds(relief(shop, "backtest", "orders", "--plot", str(file)))
    assert file.stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["backtest", "nope"], 'error: detector "nope" does not exist', "hint: List the detectors"),
        (["backtest", "orders", "9"], 'error: detector "orders" has no model of version 9', "hint: The versions are"),
        (["backtest", "orders", "x"], 'error: "x" is no version of a model', "hint: List the versions"),
        (["backtest", "orders", "--since", "2024-01-01"], 'error: detector "orders" has no time column', "hint: Leave"),
        (["thresholds", "orders", "--plot", "a.txt"], 'error: "a.txt" is no file to draw into', "hint: Its name ends"),
        (["thresholds", "orders", "--plot", "/nope/a.png"], "error: cannot write /nope/a.png: No such", "hint: Give a"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_a_hint(shop: Database, arguments: list[str], error: str, hint: str) -> None:
    result = relief(shop, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(error)
    assert hint in result.stderr


def test_without_matplotlib_it_is_said_how_to_get_it(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = relief(shop, "thresholds", "orders", "--plot", "a.png")
    assert result.stderr.splitlines() == [
        "error: matplotlib is not installed",
        "hint: Install it: pip install '.[plot]'",
    ]
