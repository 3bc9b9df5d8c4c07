"""What a refresh costs where nothing is known of the table."""

from __future__ import annotations

import re

from helpers.database import Database, query, value


def test_refresh_of_a_table_without_statistics_is_not_planned_in_quadratic_time(database: Database) -> None:
    connection = database.superuser
    query(
        connection, "create table public.many (id integer primary key, amount integer) with (autovacuum_enabled = off)"
    )
    query(connection, "select relief.create_detector('many', 'public.many', '{amount}', entity => '{id}')")
    query(connection, "insert into public.many select i, i % 100 from generate_series(1, 1000) as i")
    query(connection, "load 'auto_explain'")
    for setting in ("log_min_duration = 0", "log_analyze = on", "log_timing = off", "log_nested_statements = on"):
        query(connection, f"set auto_explain.{setting}")  # type: ignore[arg-type]
    query(connection, "set client_min_messages = log")
    plans: list[str] = []
    connection.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))
    assert value(connection, "select relief.refresh_profile('many')") == 1001
    assert any("insert into relief.profile" in plan for plan in plans)
    removed = [int(rows) for plan in plans for rows in re.findall(r"Rows Removed by (?:Join )?Filter: (\d+)", plan)]
    assert sum(removed) < 20 * 1000
