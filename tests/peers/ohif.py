"""A real DICOM viewer: OHIF as its makers built it, in front of a PACS.

``tests/peers/ohif`` holds the lock file of the one package. Viewer and DICOMweb have the same
origin, as behind the reverse proxy of a hospital: what is asked under ``/dicom-web`` is handed
on to the PACS. Nothing else answers.
"""

from __future__ import annotations

import json
import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from tests.peers.node_packages import install_packages

FOLDER = Path(__file__).parent / "ohif"
DIST = (FOLDER / "node_modules" / "@ohif" / "app" / "dist").resolve()
DICOMWEB_PATH = "/dicom-web"
_TIMEOUT = 60.0
_HANDED_ON = ("Accept", "Host")
"""``Host`` too: the PACS makes its addresses of bulk data from it."""

CONFIGURATION = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showErrorDetails": "always",
    "investigationalUseDialog": {"option": "never"},
    "showCPUFallbackMessage": False,
    "defaultDataSourceName": "pacs",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "pacs",
            "configuration": {
                "friendlyName": "PACS",
                "name": "pacs",
                "qidoRoot": DICOMWEB_PATH,
                "wadoRoot": DICOMWEB_PATH,
                "wadoUriRoot": DICOMWEB_PATH,
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "omitQuotationForMultipartRequest": True,
            },
        }
    ],
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, dicomweb_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pacs = httpx.Client(timeout=_TIMEOUT)
        self.dicomweb_url = dicomweb_url


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """The viewer's files, its configuration, or the PACS."""
        path = unquote(urlsplit(self.path).path)
        if path.startswith(DICOMWEB_PATH + "/"):
            self._hand_on()
        elif path == "/app-config.js":
            text = f"window.config = {json.dumps(CONFIGURATION)};"
            self._answer(HTTPStatus.OK, "text/javascript", text.encode())
        else:
            self._file(path)

    def _hand_on(self) -> None:
        url = self.server.dicomweb_url + self.path.removeprefix(DICOMWEB_PATH)
        headers = {name: self.headers[name] for name in _HANDED_ON if name in self.headers}
        try:
            answer = self.server.pacs.get(url, headers=headers)
        except httpx.TransportError:
            self._answer(HTTPStatus.BAD_GATEWAY, "text/plain", b"the PACS does not answer")
            return
        kind = answer.headers.get("Content-Type", "application/octet-stream")
        self._answer(answer.status_code, kind, answer.content)

    def _file(self, path: str) -> None:
        file = (DIST / path.lstrip("/")).resolve()
        if not file.is_relative_to(DIST):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"no such file")
            return
        if not file.is_file():  # a page of the single-page application
            file = DIST / "index.html"
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._answer(HTTPStatus.OK, kind, file.read_bytes())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Nothing: the browser's own requests are what tests look at."""


@contextmanager
def ohif(dicomweb_url: str) -> Iterator[str]:
    """The viewer in front of a PACS; gives its URL, on a loopback port of its own."""
    install_packages(FOLDER)
    assert (DIST / "index.html").is_file(), f"no viewer in {DIST}"
    server = _Server(dicomweb_url)
    thread = threading.Thread(target=server.serve_forever, name="ohif", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        server.pacs.close()
