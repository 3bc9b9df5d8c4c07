"""The command ``relief watch``."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from typing import Any

import click

from relief_trainer.errors import ReliefError
from relief_trainer.options import with_dsn

Deliver = Callable[[dict[str, Any]], None]


@click.command()
@click.argument("name")
@with_dsn
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@click.option("--webhook", "url", metavar="URL", help="POST each event there, until it is taken.")
@click.option("--secret-env", metavar="VARIABLE", help="The environment variable that holds the webhook's secret.")
@click.option("--subscription", metavar="NAME", help="Remember under this name what was delivered, and go on there.")
@click.option("--since", metavar="TIME", help="Begin with what has happened since; by default with what comes now.")
@click.option("--every", type=click.FloatRange(0.01), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--attempts", type=click.IntRange(1), help="End when a webhook has failed so often; by default never.")
@click.option("--once", is_flag=True, help="End when no event is left.")
def watch(
    name: str,
    dsn: str | None,
    as_json: bool,
    url: str | None,
    secret_env: str | None,
    subscription: str | None,
    since: str | None,
    every: float,
    attempts: int | None,
    once: bool,
) -> None:
    """Follow a detector's events, and print them or send them to a webhook.

    With --subscription each is delivered at least once, whatever happens to this command: what it hasn't finished, the
    next one does.

    \b
    Example:
      relief watch flights --json
      relief watch flights --webhook https://example.com/hook --secret-env HOOK_SECRET --subscription hook
    """
    from relief_trainer.watch import watch as run

    if url is None and (secret_env is not None or attempts is not None):
        raise ReliefError("--secret-env and --attempts are for --webhook", "Give --webhook URL, or leave them out.")
    if url is not None and (secret_env is None or subscription is None or as_json):
        raise ReliefError(
            "--webhook needs --secret-env and --subscription, and prints nothing",
            f"For example: relief watch {shlex.quote(name)} --webhook {shlex.quote(url)} "
            "--secret-env HOOK_SECRET --subscription hook",
        )
    deliver: Deliver = _print_json if as_json else _print_line
    if url is not None:
        deliver = _webhook(dsn, url, secret_env or "", attempts)
    run(
        dsn,
        name,
        deliver,
        subscription=subscription,
        since=since,
        every=every,
        once=once,
        warn=_warn,
    )


def _warn(told: str) -> None:
    click.echo(f"warning: {told}", err=True)


def _print_json(event: dict[str, Any]) -> None:
    click.echo(json.dumps(event, ensure_ascii=False))


def _print_line(event: dict[str, Any]) -> None:
    row = "" if event["key"] is None else " " + json.dumps(event["key"], ensure_ascii=False)
    count = f" {event['rows']:,} rows" if event["is_summary"] else ""
    click.echo(f"{event['happened_at']} {event['kind']}{row}{count}: {event['error'] or event['sentence']}")


def _webhook(dsn: str | None, url: str, secret_env: str, attempts: int | None) -> Deliver:
    from relief_trainer.connection import connect
    from relief_trainer.queries import query
    from relief_trainer.webhook import Webhook

    secret = os.environ.get(secret_env)
    if secret is None:
        raise ReliefError(
            f"the environment has no variable {secret_env}",
            f'Set it: export {secret_env}="whsec_$(openssl rand -base64 32)"',
        )
    with connect(dsn) as connection:
        origin = connection.execute(query("identity")).fetchone() or {}
    return Webhook(url, secret, "/".join(map(str, origin.values())), attempts, _warn).deliver
