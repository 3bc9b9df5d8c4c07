"""Monitoring by Prometheus: Debian's exporter with our queries, and our rules on what it tells."""

from __future__ import annotations

import math
import re
from pathlib import Path

import yaml
from helpers.database import Database, query
from helpers.exporter import running_exporter, scrape
from helpers.world import World
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

MONITORING = Path(__file__).parents[1] / "sql" / "monitoring"
QUERIES = MONITORING / "relief-queries.yaml"
RULES = yaml.safe_load((MONITORING / "relief-alerts.yaml").read_text())["groups"][0]["rules"]
# What a rule asks for: one metric, compared with one number.
CONDITION = re.compile(r"(\w+) > (\d+)")


def test_exporter_tells_what_the_view_tells_and_rules_fire_on_it(attached_world: World, tmp_path: Path) -> None:
    world, database = attached_world, attached_world.database
    role = database.role("exporter")
    database.query(f"alter role {role} password 'none'; grant pg_monitor to {role}")
    database.query("select relief.grant_monitor(%s)", role)
    query(world.mallory, "create table mal.t (a integer)")
    query(world.mallory, """select relief.create_detector('an "odd" name', 'mal.t', '{a}')""")
    query(world.app, "insert into shop.orders (a, b) values (-2, 1), (-3, 1), (2, 1)")
    query(world.app, "select relief.refresh_profile('orders')")
    uncached = tmp_path / "queries.yaml"
    uncached.write_text(re.sub("cache_seconds: .*", "cache_seconds: 0", QUERIES.read_text()))
    with running_exporter(make_conninfo(database.dsn(role), password="none"), uncached) as address:
        scraped = scrape(address)
        assert _firing(scraped) == set()
        for row in database.superuser.cursor(row_factory=dict_row).execute("select * from relief.metrics"):
            detector = row.pop("detector")
            for name, expected in row.items():
                value = scraped[f"relief_{name}"][detector]
                if expected is None:
                    assert math.isnan(value), name
                elif not name.endswith("_age_seconds"):
                    assert value == expected, name
                else:
                    assert expected - 600 < value <= expected, name
        database.query("update relief.model set created_at = created_at - interval '31 days'")
        database.query("update relief.refresh set refreshed_at = refreshed_at - interval '25 hours'")
        query(world.app, "insert into shop.orders (a, b) values (1, -6)")
        query(world.app, "select relief.request_training('orders')")
        query(world.app, "update relief.job set state = 'failed', finished_at = now()")
        query(world.app, "alter table shop.orders rename b to c")
        drift = "insert into relief.measured_drift (detector_id, feature, model_version, rows, verdict) values "
        database.query(
            drift + "((select id from relief.detector where name = 'orders'), 'a', 1, 9, 'drifted: train again')"
        )
        assert _firing(scrape(address)) == {(rule["alert"], "orders") for rule in RULES}


def test_every_column_of_the_view_is_described_for_the_exporter(database: Database) -> None:
    columns = [column.name for column in database.superuser.execute("select * from relief.metrics").description]
    described = yaml.safe_load(QUERIES.read_text())["relief"]["metrics"]
    assert [name for metric in described for name in metric] == columns


def _firing(scraped: dict[str, dict[str, float]]) -> set[tuple[str, str]]:
    """Return the rules that hold, each with the detector: NaN is greater than nothing, as for Prometheus."""
    conditions = {rule["alert"]: CONDITION.fullmatch(rule["expr"]) for rule in RULES}
    return {
        (alert, detector)
        for alert, condition in conditions.items()
        for detector, value in scraped[condition[1]].items()
        if value > float(condition[2])
    }
