"""Send events to a URL, signed and retried, as https://www.standardwebhooks.com has it.

A message is a POST of JSON with the headers ``webhook-id``, the same for each attempt; ``webhook-timestamp``, when it
was sent; and ``webhook-signature``: "v1," and the base64 of HMAC-SHA256 over id, timestamp and body, with full stops
between.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from relief_trainer.errors import ReliefError

if TYPE_CHECKING:
    from stamina.instrumentation import RetryDetails

PREFIX = "whsec_"
TIMEOUT = 20.0
LONGEST_WAIT = 300.0


class Webhook:
    """An endpoint that takes events.

    Parameters
    ----------
    url
        Where to; http or https.
    secret
        Shared with the endpoint: ``whsec_`` and the base64 of 24 to 64 bytes.
    origin
        What tells the events of this database from those of another; it makes the ids of messages.
    attempts
        How often an event is sent before its failure is raised; ``None``: until it is taken.
    warn
        Is told why an event was not taken and when it is sent again.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        origin: str,
        attempts: int | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        httpx = _httpx()
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ReliefError(f"the webhook's URL is not valid: {error}", "It begins with https://.") from None
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise ReliefError("the webhook's URL is neither http nor https", "For example: https://example.com/hook")
        self._key = _key(secret)
        self._origin = origin
        self._attempts = attempts
        self._warn = warn
        self._client = httpx.Client(timeout=TIMEOUT)

    def deliver(self, event: dict[str, Any]) -> None:
        """Send an event until the endpoint answers with 2xx, waiting longer each time.

        Raises
        ------
        ReliefError
            If the endpoint says that it is gone (410), or after the last attempt.
        """
        import stamina

        httpx = _httpx()
        number = event["event"]

        def not_taken(error: Exception) -> str:
            return f"event {number} was not taken by {self._url.host}: {_told(error)}"

        def tell(details: RetryDetails) -> None:
            self._warn(f"{not_taken(details.caused_by)}; trying again in {details.wait_for:.0f} s")

        # In the place of stamina's own, which logs that there is a retry, and not of what.
        stamina.instrumentation.set_on_retry_hooks([tell])
        message_id = f"evt_{uuid.uuid5(uuid.NAMESPACE_OID, f'{self._origin}/{number}').hex}"
        body = json.dumps(
            {"type": f"relief.{event['kind']}", "timestamp": event["happened_at"], "data": event}, ensure_ascii=False
        ).encode()
        try:
            for attempt in stamina.retry_context(
                on=_wait, attempts=self._attempts, timeout=None, wait_initial=1.0, wait_max=LONGEST_WAIT
            ):
                with attempt:
                    headers = signed_headers(self._key, message_id, int(time.time()), body)
                    self._client.post(self._url, content=body, headers=headers).raise_for_status()
        except httpx.HTTPError as error:
            raise ReliefError(
                not_taken(error),
                "It is delivered again by the next call with the same --subscription.",
            ) from error


def signed_headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message, with its signature."""
    signature = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def _key(secret: str) -> bytes:
    hint = 'Make one: echo "whsec_$(openssl rand -base64 32)"'
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not 24 <= len(key) <= 64:
        raise ReliefError("the webhook's secret is not whsec_ and the base64 of 24 to 64 bytes", hint)
    return key


def _wait(error: Exception) -> bool | float:
    """Return whether to try again, or after how many seconds the endpoint asks to."""
    httpx = _httpx()
    if isinstance(error, httpx.HTTPStatusError):
        asked = error.response.headers.get("retry-after", "")
        if error.response.status_code == httpx.codes.GONE:
            return False
        return min(float(asked), LONGEST_WAIT) if re.fullmatch("[0-9]{1,9}", asked) else True
    return isinstance(error, httpx.TransportError)


def _told(error: Exception) -> str:
    """Return an error without the URL, which may hold a password."""
    httpx = _httpx()
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answered {error.response.status_code} {error.response.reason_phrase}".rstrip()
    return str(error) or type(error).__name__


def _httpx() -> Any:
    try:
        import httpx
        import stamina  # noqa: F401
    except ImportError as error:
        raise ReliefError(f"the package {error.name} is not installed", "Install: pip install '.[webhook]'") from None
    return httpx
