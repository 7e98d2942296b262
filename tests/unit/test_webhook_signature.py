"""Signatures of webhooks, by the vector of the Standard Webhooks specification."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime

import pytest

from hub.transport.webhook_signature import key_of, signed_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""Of the specification's own example, as are id, time and body below."""
NOW = datetime.fromtimestamp(1614265330, UTC)
BODY = b'{"test": 2432232314}'
EXPECTED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signature_is_that_of_the_specification() -> None:
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", NOW, BODY, [key_of(SECRET)])
    assert headers["webhook-signature"] == EXPECTED
    assert headers["webhook-timestamp"] == "1614265330"


def test_while_secrets_change_there_is_one_signature_by_each() -> None:
    other = key_of("whsec_" + b64encode(bytes(range(32))).decode())
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", NOW, BODY, [other, key_of(SECRET)])
    first, second = headers["webhook-signature"].split(" ")
    assert second == EXPECTED
    assert first != second


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook_id": "another"},
        {"now": datetime.fromtimestamp(1614265331, UTC)},
        {"body": BODY + b" "},
    ],
)
def test_the_signature_covers_id_time_and_body(changed: dict[str, object]) -> None:
    told = {"webhook_id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "now": NOW, "body": BODY} | changed
    headers = signed_headers(**told, keys=[key_of(SECRET)])  # type: ignore[arg-type]
    assert headers["webhook-signature"] != EXPECTED


@pytest.mark.parametrize(
    "secret",
    [
        "plain text that is long enough",
        "whsec_not base64!",
        "whsec_" + b64encode(bytes(23)).decode(),
        "whsec_" + b64encode(bytes(65)).decode(),
        "",
    ],
)
def test_a_secret_that_is_none_is_not_repeated(secret: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        key_of(secret)
    assert not secret or secret not in str(caught.value)
