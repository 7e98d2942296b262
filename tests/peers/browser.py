"""A real browser: Debian's Chromium, headless, driven by Playwright.

Playwright brings its own driver; no browser is downloaded. Every page records what it asks
from anywhere but this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Route, sync_playwright

from tests.peers import find_tool

_WEBGL_WITHOUT_GPU = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_LOCAL = ("127.0.0.1", "localhost")
_INSIDE = ("blob", "data", "chrome", "chrome-extension")
"""Made by the page, or the browser's own, such as its viewer of PDF files."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_tool("chromium", "chromium"),
            args=[*_WEBGL_WITHOUT_GPU, "--no-sandbox", "--disable-dev-shm-usage"],
        )
        try:
            yield browser
        finally:
            browser.close()


def record_foreign_requests(context: BrowserContext) -> list[str]:
    """Refuse every request that leaves this machine, and keep its URL in the list returned."""
    foreign: list[str] = []

    def decide(route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.scheme in _INSIDE or url.hostname in _LOCAL:
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    context.route("**/*", decide)
    return foreign
