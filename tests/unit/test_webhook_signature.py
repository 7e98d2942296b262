"""Signatures of webhooks, by the vector of the Standard Webhooks specification."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest

from hub.errors import RejectedError
from hub.transport.webhook_signature import key_of, signed_headers, verified

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


# --- checking -------------------------------------------------------------------------------

KEY, OTHER = key_of(SECRET), bytes(range(32))
SIGNED = dict(signed_headers("msg_1", NOW, BODY, [KEY]))


def test_a_message_that_is_signed_is_known_by_its_identifier() -> None:
    assert verified(SIGNED, BODY, [KEY], NOW) == "msg_1"


def test_the_vector_of_the_specification_is_right() -> None:
    told = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": f"v1,{'A' * 44} v1a,other {EXPECTED}",
    }
    assert verified(told, BODY, [KEY], NOW) == "msg_p5jXN8AQM9LWM0D4loKWxJek"


@pytest.mark.parametrize("keys", [[OTHER, KEY], [KEY, OTHER]])
def test_while_secrets_change_either_key_will_do(keys: list[bytes]) -> None:
    both = dict(signed_headers("msg_1", NOW, BODY, [bytes(24), KEY]))
    assert verified(both, BODY, keys, NOW) == "msg_1"


@pytest.mark.parametrize("seconds", [-300, 300])
def test_clocks_may_differ_by_five_minutes(seconds: int) -> None:
    assert verified(SIGNED, BODY, [KEY], NOW + timedelta(seconds=seconds)) == "msg_1"


@pytest.mark.parametrize(
    ("change", "body", "late", "reason"),
    [
        ({"webhook-signature": ""}, BODY, 0, "not signed"),
        ({"webhook-id": ""}, BODY, 0, "not signed"),
        ({"webhook-timestamp": ""}, BODY, 0, "not signed"),
        ({"webhook-id": "msg_2"}, BODY, 0, "no signature is right"),
        ({"webhook-timestamp": "1614265331"}, BODY, 0, "no signature is right"),
        ({}, BODY + b" ", 0, "no signature is right"),
        ({"webhook-signature": "v1,"}, BODY, 0, "no signature is right"),
        ({"webhook-signature": "v1,\u00fc"}, BODY, 0, "no signature is right"),
        ({"webhook-signature": EXPECTED[3:]}, BODY, 0, "no signature is right"),
        ({"webhook-timestamp": "soon"}, BODY, 0, "cannot be read"),
        ({"webhook-timestamp": "-1614265330"}, BODY, 0, "cannot be read"),
        ({"webhook-timestamp": "9" * 400}, BODY, 0, "cannot be read"),
        ({"webhook-id": "a.1614265330"}, BODY, 0, "cannot be read"),
        ({"webhook-id": "x" * 300}, BODY, 0, "cannot be read"),
        ({}, BODY, 301, "too old"),
        ({}, BODY, -301, "in the future"),
    ],
)
def test_what_is_not_signed_now_by_the_vendor_is_refused(
    change: dict[str, str], body: bytes, late: int, reason: str
) -> None:
    with pytest.raises(RejectedError, match=reason) as caught:
        verified(SIGNED | change, body, [KEY], NOW + timedelta(seconds=late))
    assert SECRET not in str(caught.value)


def test_another_key_is_not_right() -> None:
    with pytest.raises(RejectedError, match="no signature is right"):
        verified(SIGNED, BODY, [OTHER], NOW)
    with pytest.raises(RejectedError, match="no signature is right"):
        verified(SIGNED, BODY, [], NOW)
