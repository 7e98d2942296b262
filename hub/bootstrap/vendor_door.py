"""Where vendors reach the hub about one request: to post an answer, and to get its images.

The images of a request are opened by a token that says for which request it is and until when,
and is authenticated by a secret of this hub. Nothing of it is kept: whoever has the secret can
check it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from hub.domain.inference import InferenceRequest
from hub.errors import IntegrityError
from hub.ports import Retrieval
from hub.store.disk import sync_folder

TOKEN_PREFIX = "r."  # noqa: S105 - how tokens begin, not one
_SECRET_FILE = "vendor-door.key"  # noqa: S105 - a name
_SECRET_BYTES = 32
_TOKEN = re.compile(r"r\.([0-9]{1,11})\.([0-9a-f]{64})")


class RetrievalTokens:
    """Makes and checks tokens for the images of one request.

    Args:
        data: the data directory, which all roles share; the secret lies there, made when it is
            first needed.
    """

    def __init__(self, data: Path) -> None:
        self._data = data

    def issued(self, request_id: str, valid_until: datetime) -> str:
        """A token for the images of one request."""
        end = int(valid_until.timestamp())
        return f"{TOKEN_PREFIX}{end}.{self._seal(request_id, end)}"

    def opens(self, token: str, request_id: str, now: datetime) -> bool:
        """Whether it is one for this request, now."""
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            return False
        end = int(parts[1])
        is_ours = hmac.compare_digest(parts[2], self._seal(request_id, end))
        return is_ours and now.timestamp() < end

    def _seal(self, request_id: str, end: int) -> str:
        text = f"images {request_id} {end}".encode()
        return hmac.new(_secret(self._data), text, hashlib.sha256).hexdigest()


class SignedDoor:
    """`hub.ports.VendorDoor` of this hub.

    Args:
        url: how others reach it (`web.public_url`).
        tokens: see there.
    """

    def __init__(self, url: str, tokens: RetrievalTokens) -> None:
        self._api = f"{url.rstrip('/')}/api/v1"
        self._tokens = tokens

    def callback_url(self, request_id: str) -> str:
        return f"{self._api}/callbacks/{request_id}"

    def images(self, request: InferenceRequest, valid_until: datetime) -> Retrieval:
        whole = valid_until.astimezone(UTC).replace(microsecond=0)
        token = self._tokens.issued(request.request_id, whole)
        return Retrieval(
            url=f"{self._api}/requests/{request.request_id}/dicom-web",
            authorization=f"Bearer {token}",
            valid_until=whole,
        )


def _secret(data: Path) -> bytes:
    """The hub's own; whoever comes first makes it, whole and on disk before anybody sees it.

    Raises:
        IntegrityError: the file is there, and holds none.
    """
    path = data / _SECRET_FILE
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = _made(path)
    if len(found) != _SECRET_BYTES:
        raise IntegrityError(f"{_SECRET_FILE} in the data directory is damaged: remove it")
    return found


def _made(path: Path) -> bytes:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, secrets.token_bytes(_SECRET_BYTES))
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        os.link(draft, path)
        sync_folder(path.parent)
    except FileExistsError:  # somebody else was first
        pass
    finally:
        draft.unlink()
    return path.read_bytes()
