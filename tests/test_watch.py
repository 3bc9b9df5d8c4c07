"""relief watch: events on the screen, or at a webhook that fails, with the command killed in between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import stamina
from click.testing import CliRunner, Result
from helpers.database import Database, query, value
from helpers.shop import attach_orders
from standardwebhooks import Webhook as Reference

from relief_trainer.cli import main
from relief_trainer.errors import ReliefError
from relief_trainer.webhook import LONGEST_WAIT, Webhook, _wait

LOW = "insert into shop.orders (a, b) values (-2, 1)"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def orders(database: Database) -> Database:
    """Return a database where a <= 0 is an anomaly of shop.orders."""
    # More than any machine writes here in a second: none is to be told in a summary.
    attach_orders(database.superuser, ", events_per_second => 10000")
    return database


@pytest.fixture
def impatient() -> Iterator[None]:
    """Let retries follow each other at once."""
    with stamina.set_testing(True, attempts=20):
        yield


class Endpoint:
    """A web server that takes messages: what it received, and how it is to answer."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[int], int] = lambda _: 200
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                endpoint.received.append((dict(self.headers), body))
                self.send_response(endpoint.answer(len(endpoint.received)))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def keys(self) -> list[Any]:
        return [json.loads(body)["data"]["key"]["id"] for _, body in self.received]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.close()


def relief(database: Database, *arguments: str, secret: str = SECRET) -> Result:
    return CliRunner(env={"HOOK_SECRET": secret}).invoke(
        main, ["watch", *arguments, "--dsn", database.dsn()], catch_exceptions=False
    )


def lines(result: Result) -> list[Any]:
    assert result.exit_code == 0, result.output
    return [json.loads(line)["key"]["id"] for line in result.stdout.splitlines()]


def hook(endpoint: Endpoint) -> list[str]:
    return ["orders", "--webhook", endpoint.url, "--secret-env", "HOOK_SECRET", "--subscription", "hook", "--once"]


def test_events_are_printed_as_lines_of_json_and_once_to_a_subscription(orders: Database) -> None:
    arguments = ("orders", "--json", "--once", "--subscription", "screen")
    assert lines(relief(orders, *arguments)) == []
    for _ in range(250):
        orders.query(LOW)
    assert lines(relief(orders, *arguments)) == list(range(501, 751))
    assert lines(relief(orders, *arguments)) == []


def test_without_a_subscription_what_has_happened_since_is_read_again(orders: Database) -> None:
    for _ in range(150):
        orders.query(LOW)
    for _ in range(2):
        assert lines(relief(orders, "orders", "--json", "--once", "--since", "2000-01-01")) == list(range(501, 651))
    assert lines(relief(orders, "orders", "--json", "--once")) == []


def test_since_that_is_no_time_is_told(orders: Database) -> None:
    for arguments in ((), ("--subscription", "screen")):
        result = relief(orders, "orders", "--once", "--since", "an hour ago", *arguments)
        assert result.stderr.splitlines() == [
            'error: --since: invalid input syntax for type timestamp with time zone: "an hour ago"',
            "hint: Give a time as PostgreSQL reads it: 2013-06-01, '2013-06-01 12:00+02', yesterday.",
        ]


def test_a_subscription_that_goes_on_says_so_to_who_gives_since(orders: Database) -> None:
    orders.query(LOW)
    arguments = ("orders", "--once", "--json", "--subscription", "screen", "--since", "2000-01-01")
    first = relief(orders, *arguments)
    assert (lines(first), first.stderr) == ([501], "")
    again = relief(orders, *arguments)
    assert lines(again) == []
    assert again.stderr == 'warning: subscription "screen" goes on where it was, whatever --since says\n'


def test_people_read_a_sentence(orders: Database) -> None:
    orders.query("select relief.set_mode('orders', 'flag', events_per_second => 1)")
    orders.query("insert into shop.orders (a, b) values (-2, 1), (-2, 1), (-2, 1), (2, -6)")
    anomaly, summary, failure = relief(orders, "orders", "--once", "--since", "2000-01-01").stdout.splitlines()
    assert 'anomaly {"id": 501}: a -2 is 1 deviations below the mean' in anomaly
    assert "anomaly 2 rows: more than 1 a second" in summary
    assert 'failure {"id": 504}: cannot take logarithm of a negative number' in failure


def test_a_webhook_gets_each_event_signed_as_the_standard_has_it(orders: Database, endpoint: Endpoint) -> None:
    relief(orders, *hook(endpoint))
    orders.query("insert into shop.orders (a, b, note) values (-2, 1, 'ö'), (-3, 1, null)")
    assert relief(orders, *hook(endpoint)).exit_code == 0
    assert endpoint.keys() == [501, 502]
    ids = set()
    for headers, body in endpoint.received:
        message = Reference(SECRET).verify(body, headers)
        assert message["type"] == "relief.anomaly"
        assert message["timestamp"] == message["data"]["happened_at"]
        ids.add({name.lower(): told for name, told in headers.items()}["webhook-id"])
    assert len(ids) == 2


def test_a_webhook_that_fails_is_tried_again_under_the_same_id(
    orders: Database, endpoint: Endpoint, impatient: None
) -> None:
    relief(orders, *hook(endpoint))
    orders.query(LOW)
    endpoint.answer = lambda attempt: (500, 503, 302, 429, 400, 200)[attempt - 1]
    result = relief(orders, *hook(endpoint))
    assert result.exit_code == 0
    told = result.stderr.splitlines()
    assert len(told) == 5
    refused = "event 1 was not taken by 127.0.0.1: it answered 500 Internal Server Error"
    assert told[0] == f"warning: {refused}; trying again in 0 s"
    assert endpoint.keys() == [501] * 6
    assert len({headers["webhook-id"] for headers, _ in endpoint.received}) == 1
    assert relief(orders, *hook(endpoint)).exit_code == 0
    assert len(endpoint.received) == 6


def test_what_was_not_taken_is_delivered_by_the_next_call(
    orders: Database, endpoint: Endpoint, impatient: None
) -> None:
    relief(orders, *hook(endpoint))
    for _ in range(3):
        orders.query(LOW)
    endpoint.answer = lambda attempt: 200 if attempt == 1 else 410
    result = relief(orders, *hook(endpoint))
    assert result.exit_code == 1
    assert "was not taken by 127.0.0.1: it answered 410 Gone" in result.stderr
    assert "hint: It is delivered again by the next call with the same --subscription." in result.stderr
    assert endpoint.keys() == [501, 502]
    endpoint.answer = lambda _: 200
    assert relief(orders, *hook(endpoint)).exit_code == 0
    assert endpoint.keys() == [501, 502, 502, 503]


def test_attempts_may_be_limited(orders: Database, endpoint: Endpoint) -> None:
    relief(orders, *hook(endpoint))
    orders.query(LOW)
    endpoint.answer = lambda _: 500
    result = relief(orders, *hook(endpoint), "--attempts", "1")
    assert (result.exit_code, len(endpoint.received)) == (1, 1)
    assert "it answered 500 Internal Server Error" in result.stderr


def test_killed_in_the_middle_it_delivers_again_and_loses_nothing(orders: Database, endpoint: Endpoint) -> None:
    relief(orders, *hook(endpoint))
    for _ in range(5):
        orders.query(LOW)
    arrived, released = threading.Event(), threading.Event()

    def stall(attempt: int) -> int:
        if attempt == 3:
            arrived.set()
            released.wait()
        return 200

    endpoint.answer = stall
    command = [str(Path(sys.executable).with_name("relief")), "watch", *hook(endpoint), "--dsn", orders.dsn()]
    process = subprocess.Popen(command, env={**os.environ, "HOOK_SECRET": SECRET})
    arrived.wait()
    process.send_signal(signal.SIGKILL)
    process.wait()
    released.set()
    assert relief(orders, *hook(endpoint)).exit_code == 0
    assert endpoint.keys() == [501, 502, 503, 503, 504, 505]


@contextlib.contextmanager
def watching(database: Database, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command until the end of the block."""
    command = [str(Path(sys.executable).with_name("relief")), "watch", *arguments, "--dsn", database.dsn()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _sessions(database: Database) -> list[int]:
    return database.query(
        "select pid from pg_stat_activity where application_name = 'relief' and datname = current_database() "
        "and state = 'idle' and query not like 'listen%'"
    )


def test_notifications_wake_it_and_lost_connections_are_made_again(orders: Database) -> None:
    orders.query("select relief.set_mode('orders', 'notify')")
    with watching(orders, "orders", "--json", "--every", "3600") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for number in (501, 502):
            while not (sessions := _sessions(orders)):
                pass
            orders.query(LOW)
            # What was printed as the connection was lost may come again; nothing is left out.
            while (printed := json.loads(process.stdout.readline())["key"]["id"]) != number:
                assert printed == 501
            if number == 501:
                orders.query("select pg_terminate_backend(%s)", sessions[0])
                assert process.stderr.readline().startswith("warning: ")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["nope"], 'detector "nope" does not exist', "select name from relief.detector;"),
        (["orders", "--since", "whenever"], 'invalid input syntax for type timestamp with time zone: "whenever"', ""),
        (["orders", "--secret-env", "X"], "--secret-env and --attempts are for --webhook", "Give --webhook URL"),
        (["orders", "--attempts", "3"], "--secret-env and --attempts are for --webhook", "or leave them out."),
        (
            ["orders", "--webhook", "http://localhost/x"],
            "--webhook needs --secret-env and --subscription, and prints nothing",
            "relief watch orders --webhook http://localhost/x --secret-env HOOK_SECRET --subscription hook",
        ),
        (
            ["orders", "--webhook", "ftp://x/y", "--secret-env", "HOOK_SECRET", "--subscription", "s"],
            "the webhook's URL is neither http nor https",
            "https://example.com/hook",
        ),
        (
            ["orders", "--webhook", "http://x:y:z/", "--secret-env", "HOOK_SECRET", "--subscription", "s"],
            "the webhook's URL is not valid",
            "It begins with https://.",
        ),
        (
            ["orders", "--webhook", "http://x/", "--secret-env", "NO_SUCH", "--subscription", "s"],
            "the environment has no variable NO_SUCH",
            'export NO_SUCH="whsec_$(openssl rand -base64 32)"',
        ),
    ],
)
def test_what_can_not_be_is_told_with_what_to_do(orders: Database, arguments: list[str], error: str, hint: str) -> None:
    result = relief(orders, *arguments)
    assert result.exit_code == 1
    assert error in result.stderr
    assert hint in result.stderr


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ="])
def test_a_secret_that_is_none_is_refused(orders: Database, endpoint: Endpoint, secret: str) -> None:
    result = relief(orders, *hook(endpoint), secret=secret)
    assert "the webhook's secret is not whsec_ and the base64 of 24 to 64 bytes" in result.stderr
    assert 'hint: Make one: echo "whsec_$(openssl rand -base64 32)"' in result.stderr


def test_passwords_in_a_url_are_not_told(impatient: None) -> None:
    webhook = Webhook("http://user:hidden@127.0.0.1:1/hook?token=hidden", SECRET, "here", attempts=1)
    with pytest.raises(ReliefError) as failure:
        webhook.deliver({"event": 1, "kind": "anomaly", "happened_at": "now"})
    assert "hidden" not in str(failure.value)


def test_the_endpoint_says_when_to_try_again() -> None:
    import httpx

    def after(status: int, **headers: str) -> bool | float:
        request = httpx.Request("POST", "http://x/")
        response = httpx.Response(status, headers={name.replace("_", "-"): told for name, told in headers.items()})
        return _wait(httpx.HTTPStatusError("", request=request, response=response))

    assert after(503, retry_after="7") == 7
    assert after(503, retry_after="99999") == LONGEST_WAIT
    assert after(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT") is True
    assert after(500) is True
    assert after(410, retry_after="7") is False
    assert _wait(httpx.ConnectError("")) is True
    assert _wait(psycopg.Error()) is False


def test_a_subscription_that_another_reader_moves_ends_it(orders: Database, endpoint: Endpoint) -> None:
    relief(orders, *hook(endpoint))
    orders.query(LOW)

    def steal(_: int) -> int:
        connection = orders.connect()
        query(connection, "select relief.unsubscribe('orders', 'hook'), relief.subscribe('orders', 'hook')")
        return 200

    endpoint.answer = steal
    result = relief(orders, *hook(endpoint))
    assert 'subscription "hook" of detector "orders" is not reading batch' in result.stderr
    assert value(orders.superuser, "select count(*) from relief.subscription") == 1
