"""The command line: what a person types and reads."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click
import joblib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from helpers.database import Database
from helpers.shop import make_orders

from relief_trainer.cli import main


@pytest.fixture
def shop(database: Database) -> Database:
    make_orders(database.superuser, rows=1000)
    return database


def relief(database: Database, *arguments: str, stdin: str | None = None) -> Result:
    """Run a command with the database's connection string."""
    return CliRunner().invoke(main, [*arguments, "--dsn", database.dsn()], input=stdin, catch_exceptions=False)


def succeeds(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_help_of_every_command_holds_an_example(name: str) -> None:
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0
    assert "Example:" in shown.output
    assert f"\n    relief {name}" in shown.output.split("Example:")[1]
    assert "\\b" not in shown.output


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_that_talks_to_a_database_takes_a_dsn(name: str) -> None:
    command = main.commands[name]
    assert "--dsn" in [option for parameter in command.params for option in parameter.opts]
    assert isinstance(command, click.Command)


def test_version_names_what_a_model_depends_on() -> None:
    printed = CliRunner().invoke(main, ["--version"]).output
    assert printed.startswith("relief ")
    assert "scikit-learn" in printed
    assert "numpy" in printed


def test_refresh_tells_how_many_profiles_it_made(shop: Database) -> None:
    for options in ((), ("--full",)):
        assert succeeds(relief(shop, "refresh", "orders", *options)) == "orders: 1 profiles are up to date\n"
    assert shop.value("select rows from relief.profile") == 1000


def test_refresh_refuses_an_unknown_detector_and_a_superuser_on_another_roles_table(shop: Database) -> None:
    result = relief(shop, "refresh", "order")
    assert result.exit_code != 0
    assert 'detector "order" does not exist' in result.stderr
    owner = shop.role("owner")
    shop.query(f"alter table shop.orders owner to {owner}")
    result = relief(shop, "refresh", "orders")
    assert result.exit_code != 0
    assert "is a superuser, and table shop.orders belongs to" in result.stderr
    assert shop.value("select count(*) from relief.profile") == 0


def test_train_tells_version_rows_and_threshold_and_what_comes_next(shop: Database) -> None:
    result = relief(shop, "train", "orders")
    assert succeeds(result).startswith("orders: version 1 trained on 1,000 rows of 1,000; a row is an anomaly from ")
    assert "promote it: relief promote orders 1" in result.stdout
    assert "growing 100 trees: " in result.stderr
    assert "trained" not in result.stderr


def test_train_prints_json_that_can_be_piped(shop: Database) -> None:
    told = json.loads(succeeds(relief(shop, "train", "orders", "--json", "--promote", "--trees", "10")))
    assert (told["version"], told["promoted"], told["rows"]) == (1, True, 1000)


def test_promote_takes_the_newest_version_or_a_given_one(shop: Database) -> None:
    for _ in range(2):
        succeeds(relief(shop, "train", "orders", "--trees", "5"))
    assert succeeds(relief(shop, "promote", "orders")) == "orders: version 2 is promoted\n"
    assert succeeds(relief(shop, "promote", "orders", "1")) == "orders: version 1 is promoted\n"


def test_json_of_refresh_promote_and_import_can_be_piped(shop: Database) -> None:
    assert json.loads(succeeds(relief(shop, "refresh", "orders", "--json"))) == {"detector": "orders", "profiles": 1}
    succeeds(relief(shop, "train", "orders", "--trees", "5"))
    assert json.loads(succeeds(relief(shop, "promote", "orders", "--json"))) == {"detector": "orders", "version": 1}
    exported = succeeds(relief(shop, "export", "orders", "--json", "-"))
    imported = succeeds(relief(shop, "import", "-", "--json", stdin=exported))
    assert json.loads(imported) == {"detector": "orders", "version": 2}


def test_commands_that_are_told_can_be_pasted_whatever_the_detector_is_called(shop: Database) -> None:
    shop.query("select relief.create_detector($$My 'own'$$, 'shop.orders', array['a'], score_function => false)")
    commands = [relief(shop, "train", "My 'own'", "--trees", "5").stdout.splitlines()[-1]]
    exported = succeeds(relief(shop, "export", "My 'own'", "--json", "-"))
    commands.append(succeeds(relief(shop, "import", "-", stdin=exported)).strip())
    for version, told in enumerate(commands, start=1):
        words = shlex.split(told.split("promote it: ")[1])
        assert words == ["relief", "promote", "My 'own'", str(version)]
        succeeds(relief(shop, *words[1:]))
    hint = relief(shop, "export", "My 'own'").stderr.split("For example: ")[1]
    assert shlex.split(hint) == ["relief", "export", "My 'own'", "--json", "My 'own'.json"]


def test_export_of_a_version_that_is_not_there_lists_those_that_are(shop: Database) -> None:
    for _ in range(2):
        succeeds(relief(shop, "train", "orders", "--trees", "5"))
    result = relief(shop, "export", "orders", "99", "--json", "-")
    assert result.exit_code == 1
    told = ['error: detector "orders" has no model of version 99', "hint: The versions are: 1, 2."]
    assert result.stderr.splitlines() == told


@pytest.mark.parametrize(
    "command",
    [
        ("train", "orders", "--sample-rows"),
        ("vacuum", "--max-rows"),
        ("jobs", "--rows"),
        ("backfill", "orders", "--batch-rows"),
        ("backtest", "orders", "--max-rows"),
        ("backtest", "orders", "-k"),
        ("thresholds", "orders", "--max-rows"),
    ],
)
def test_more_rows_than_the_server_counts_are_refused_by_the_option(shop: Database, command: tuple[str, ...]) -> None:
    result = relief(shop, *command, "99999999999")
    assert result.exit_code == 2
    assert "99999999999 is not in the range" in result.stderr


@pytest.mark.parametrize("version", ["abc", "0", "1.5", "99999999999"])
@pytest.mark.parametrize("command", ["promote", "export"])
def test_what_is_no_version_is_told_with_where_to_find_them(shop: Database, command: str, version: str) -> None:
    result = relief(shop, command, "orders", version)
    assert result.exit_code == 1
    told = [f'error: "{version}" is no version of a model', "hint: List the versions: relief show orders"]
    assert result.stderr.splitlines() == told


@pytest.mark.parametrize("command", ["train", "refresh"])
@pytest.mark.parametrize(
    ("change", "told"), [("drop column b", "is gone"), ("rename b to quantity", 'is called "quantity" by now')]
)
def test_a_used_column_that_is_gone_or_renamed_is_told(shop: Database, command: str, change: str, told: str) -> None:
    shop.query(f"alter table shop.orders {change}")
    result = relief(shop, command, "orders")
    assert result.exit_code == 1
    error, hint = result.stderr.splitlines()[-2:]
    assert error == f'error: column "b" of table shop.orders, which detector "orders" reads, {told}'
    assert hint == "hint: See what mends it: select * from relief.check();"


def test_list_and_show_describe_a_detector(shop: Database) -> None:
    succeeds(relief(shop, "train", "orders", "--trees", "5", "--promote"))
    assert json.loads(succeeds(relief(shop, "list", "--json")))[0]["name"] == "orders"
    assert "shop.orders" in succeeds(relief(shop, "list"))
    shown = succeeds(relief(shop, "show", "orders"))
    assert "ln(b)" in shown
    assert "scikit-learn" in shown
    told = json.loads(succeeds(relief(shop, "show", "orders", "--json")))
    assert [feature["name"] for feature in told["features"]] == ["a", "log_b"]
    assert told["provenance"]["trees"] == 5


def test_list_of_nothing_says_how_to_begin(database: Database) -> None:
    assert "relief.create_detector" in succeeds(relief(database, "list"))


def test_an_exported_model_scores_the_same_where_it_is_imported(shop: Database, tmp_path: Path) -> None:
    file = str(tmp_path / "orders.json")
    succeeds(relief(shop, "train", "orders", "--promote"))
    rows = "select array_agg(shop.relief_score(o) order by o.id) from shop.orders as o"
    before = shop.value(rows)
    succeeds(relief(shop, "export", "orders", "--json", file))
    assert "stored as version 2" in succeeds(relief(shop, "import", file))
    succeeds(relief(shop, "promote", "orders"))
    assert shop.value(rows) == before
    assert shop.value("select count(distinct checksum) from relief.model") == 1


def test_a_model_is_piped_from_export_to_import(shop: Database) -> None:
    succeeds(relief(shop, "train", "orders", "--trees", "5"))
    exported = succeeds(relief(shop, "export", "orders", "--json", "-"))
    assert "version 2" in succeeds(relief(shop, "import", "-", stdin=exported))


def test_a_joblib_export_is_the_forest_that_scores(shop: Database, tmp_path: Path) -> None:
    file = str(tmp_path / "orders.joblib")
    told = json.loads(succeeds(relief(shop, "train", "orders", "--promote", "--max-features", "0.5", "--json")))
    succeeds(relief(shop, "export", "orders", "--joblib", file))
    forest = joblib.load(file)
    rows = shop.query("select a::float8, ln(b), shop.relief_score(o) from shop.orders as o")
    frame = pd.DataFrame([row[:2] for row in rows], columns=["a", "log_b"])
    scores = np.array([row[2] for row in rows])
    np.testing.assert_allclose(-forest.score_samples(frame), scores, rtol=4e-16)
    assert np.array_equal(forest.predict(frame) == -1, scores >= told["threshold"])


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["train", "nope"], 'error: detector "nope" does not exist', "hint: List the detectors: relief list"),
        (["show", "nope"], 'error: detector "nope" does not exist', "hint: List the detectors: relief list"),
        (["promote", "nope"], 'error: detector "nope" does not exist', "hint: List the detectors of tables"),
        (["promote", "orders"], 'error: detector "orders" has no model', "hint: Train one: relief train orders"),
        (["export", "orders", "--json", "x"], 'error: detector "orders" has no model', "hint: Train one"),
        (["export", "orders"], "error: give one of --json and --joblib", "hint: For example: relief export orders"),
        (
            ["import", "/nonexistent"],
            "error: cannot read /nonexistent: No such file",
            "hint: Export a model first: relief export <detector> --json /nonexistent",
        ),
        (["install"], "error: Relief is installed in this database already", "hint: See how it is"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_a_hint(shop: Database, arguments: list[str], error: str, hint: str) -> None:
    result = relief(shop, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(error)
    assert hint in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "options",
    [["--trees", "0"], ["--contamination", "0.6"], ["--max-features", "2"], ["--samples", "1"], ["--unknown", "1"]],
)
def test_an_option_out_of_range_is_refused(shop: Database, options: list[str]) -> None:
    result = relief(shop, "train", "orders", *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr


@pytest.mark.parametrize("change", ["checksum", "document", "nothing"])
def test_a_damaged_file_is_not_imported(shop: Database, tmp_path: Path, change: str) -> None:
    succeeds(relief(shop, "train", "orders", "--trees", "5"))
    content = json.loads(succeeds(relief(shop, "export", "orders", "--json", "-")))
    if change == "checksum":
        content["checksum"] = "0" * 64
    elif change == "document":
        content["document"]["samples"] += 1
    else:
        content = {}
    file = tmp_path / "damaged.json"
    file.write_text(json.dumps(content))
    result = relief(shop, "import", str(file))
    assert result.exit_code == 1
    assert ("not an exported model" if change == "nothing" else "checksum") in result.stderr
    assert shop.value("select count(*) from relief.model") == 1


def test_flights_are_loaded_into_a_database_once(database: Database) -> None:
    assert succeeds(relief(database, "demo", "--load")) == "table flights has 336,776 rows\n"
    assert database.value("select count(*) from flights") == 336_776
    again = relief(database, "demo", "--load")
    assert (again.exit_code, again.stderr) == (
        1,
        "error: there is a table flights already\nhint: Drop it first: drop table flights;\n",
    )


def test_a_role_that_may_make_no_table_is_told_how_it_may_load_the_flights(database: Database) -> None:
    role = database.role("visitor")
    database.query("revoke create on schema public from public")
    load = ["demo", "--load", "--dsn", database.dsn(role)]
    told = CliRunner().invoke(main, load).stderr.splitlines()
    assert told[0] == "error: permission denied for schema public"
    database.query(told[1].removeprefix("hint: As a superuser: "))
    assert CliRunner().invoke(main, load).exit_code == 0


def test_a_role_that_may_only_score_is_told_what_a_command_needs(database: Database) -> None:
    role = database.role("scorer")
    database.query(f"select relief.grant_usage('{role}')")
    for command in (["promote", "orders"], ["show", "orders"], ["refresh", "orders"], ["backfill", "orders"], ["list"]):
        told = CliRunner().invoke(main, [*command, "--dsn", database.dsn(role)]).stderr.splitlines()
        assert told[1] == f"hint: Ask a superuser for the rights: select relief.grant_admin('{role}');"


def test_the_demo_itself_takes_no_database(database: Database) -> None:
    result = relief(database, "demo")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1] == "hint: Load its flights into yours: relief demo --load"


def test_install_makes_relief_work_in_an_empty_database(empty_database: Database) -> None:
    printed = succeeds(relief(empty_database, "install"))
    assert "PL/Python scores as it should      ok" in printed
    make_orders(empty_database.superuser)
    succeeds(relief(empty_database, "train", "orders", "--promote"))
    assert empty_database.value("select count(shop.relief_score(o)) from shop.orders as o") == 500


def test_install_where_relief_is_says_so_to_ordinary_roles_and_how_to_get_its_rights(database: Database) -> None:
    role = database.role("ordinary")
    install = ["install", "--dsn", database.dsn(role)]
    first = CliRunner().invoke(main, install).stderr.splitlines()
    assert first[0] == "error: Relief is installed in this database already"
    assert first[1] == f"hint: Ask a superuser for the rights: select relief.grant_admin('{role}');"
    database.query(first[1].split("rights: ")[1])
    assert "See how it is: select * from relief.check();" in CliRunner().invoke(main, install).stderr


def test_install_as_an_ordinary_role_is_told(empty_database: Database) -> None:
    role = empty_database.role("ordinary")
    result = CliRunner().invoke(main, ["install", "--dsn", empty_database.dsn(role)])
    assert result.exit_code == 1
    assert "is not a superuser" in result.stderr
