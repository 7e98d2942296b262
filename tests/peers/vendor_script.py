"""A vendor's service that answers at once, and forgets: every request is worked on anew."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hub.formats.contract.messages import decode_request
from hub.formats.contract.request import RequestMessage

Work = Callable[[RequestMessage], bytes]


@dataclass
class VendorScript:
    """What it does."""

    work: Work
    url: str = ""
    status: int = 200


@contextmanager
def vendor_script(work: Work) -> Iterator[VendorScript]:
    """On a free loopback port."""
    script = VendorScript(work)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(script))
    script.url = f"http://127.0.0.1:{server.server_address[1]}/ai"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()


def measured(message: RequestMessage, value: float) -> bytes:
    """A measurement of the toy model (`tests.unit.adapters.toy_models`)."""
    code = {"value": "T", "scheme": "99T", "meaning": "Total"}
    unit = {"value": "1", "scheme": "UCUM", "meaning": "no units"}
    finding = {"tracking_identifier": "the sum", "code": code, "value": value, "unit": unit}
    told: dict[str, Any] = {
        "contract": "1.0",
        "request_id": message.request_id,
        "status": "assessed",
        "study_instance_uid": message.study.study_instance_uid,
        "model": {"id": message.model.id, "version": message.model.version},
        "findings": [finding],
    }
    return json.dumps(told).encode()


def _handler(script: VendorScript) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = script.work(decode_request(body)) if script.status == 200 else b""
            self.send_response(script.status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
