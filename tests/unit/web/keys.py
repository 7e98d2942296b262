"""Keys that are known without a database, and clients that hold them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from fastapi.testclient import TestClient

from hub.domain.access import Scope
from hub.ports import HttpEndpoint
from hub.store.api_keys import ApiKey, KeyState
from hub.web.door import TABLE, Application, Door, entries_of
from hub.web.refusals import Refusal, Refusals

VENDOR = "Beispiel Medizintechnik GmbH"
"""Of ``tests.builders.model_card``."""


def api_key(scope: Scope, vendor: str = "", **more: Any) -> ApiKey:
    """A key whose text is the name of its scope."""
    values: dict[str, Any] = {
        "key_id": f"{scope.value:0<16}",
        "name": f"test-{scope.value}",
        "scope": scope,
        "vendor": vendor,
        "state": KeyState.ACTIVE,
        "created_by": "user:test",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "expires_at": None,
        "last_used_at": None,
        "revoked_at": None,
        "revoked_by": None,
    }
    return ApiKey(**values | more)


class KnownKeys:
    """As `hub.web.key_holders.KeyHolders`, of keys by their text."""

    def __init__(self, keys: Iterable[tuple[str, ApiKey]]) -> None:
        self._keys = dict(keys)
        self.noted: list[tuple[str, str, str]] = []

    async def key_of(self, text: str) -> ApiKey | None:
        return self._keys.get(text)

    def note_refusal(self, key: ApiKey, reason: Refusal, place: str) -> None:
        self.noted.append((key.name, reason.value, place))


def keys_of_all_scopes(vendor: str = VENDOR) -> KnownKeys:
    return KnownKeys(
        (scope.value, api_key(scope, vendor if scope is Scope.VENDOR else "")) for scope in Scope
    )


def behind_the_door(
    application: Application,
    endpoints: Iterable[HttpEndpoint] = (),
    keys: KnownKeys | None = None,
    refusals: Refusals | None = None,
) -> Door:
    """The application as the web role serves it."""
    table = [*TABLE, *entries_of(endpoints)]
    return Door(application, table, keys or keys_of_all_scopes(), refusals or Refusals())


def client_with_key(application: Application, scope: Scope | None = Scope.OPERATOR) -> TestClient:
    """A client of an application behind the door; None: without a key."""
    headers = {} if scope is None else {"Authorization": f"Bearer {scope.value}"}
    door = behind_the_door(application)
    return TestClient(door, raise_server_exceptions=False, headers=headers)
