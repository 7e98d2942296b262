"""Parts that load late, when several threads need them first at the same time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from hub.ports import at_first_call

_PACKAGE = "knotted_parts"
_LEFT = """
from time import sleep
sleep(0.05)
import knotted_parts.right
def answer(): return "left"
"""
_RIGHT = """
from time import sleep
sleep(0.05)
import knotted_parts.left
def answer(): return "right"
seen = knotted_parts.left.answer
"""


@pytest.fixture
def knotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two modules, each of which needs the other while it is imported (as some of pydicom do)."""
    folder = tmp_path / _PACKAGE
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "left.py").write_text(_LEFT)
    (folder / "right.py").write_text(_RIGHT)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.startswith(_PACKAGE)]:
        del sys.modules[name]


@pytest.mark.usefixtures("knotted")
def test_parts_that_import_each_other_may_be_called_first_by_two_threads() -> None:
    together = Barrier(2)
    calls = [at_first_call(f"{_PACKAGE}.{side}:answer") for side in ("left", "right")]

    def call(number: int) -> object:
        together.wait()
        return calls[number]()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(call, range(2))) == ["left", "right"]
