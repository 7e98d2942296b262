"""``python -m tests``: what fails in one part does not hide behind another that is good."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import __main__ as parts

GOOD = "def test_good() -> None:\n    assert True\n"
BAD = "def test_bad() -> None:\n    assert 1 == 2, 'what it says'\n"
BROKEN = "import there_is_none\n"


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *texts: str
) -> tuple[int, list[str]]:
    """The exit status of parts with a module each, and the last lines that were printed."""
    monkeypatch.setattr(parts, "REPORTS", folder / "reports")
    chosen = {}
    for number, text in enumerate(texts):
        module = folder / f"test_{number}.py"
        module.write_text(text)
        chosen[str(number)] = (str(module), "-c", "/dev/null", "-p", "no:cacheprovider")
    status = parts.main(chosen)
    return status, capfd.readouterr().out.splitlines()


def test_all_are_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, said = run(tmp_path, monkeypatch, capfd, GOOD, GOOD)
    assert (status, said[-1]) == (0, "all parts passed")


@pytest.mark.parametrize("order", [(BAD, GOOD), (GOOD, BAD)], ids=["first", "last"])
def test_a_failure_in_either_is_told_at_the_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    order: tuple[str, str],
) -> None:
    status, said = run(tmp_path, monkeypatch, capfd, *order)
    assert status == 1
    assert said[-2] == "1 failed"
    assert "::test_bad - AssertionError: what it says" in said[-1]
    assert sum("1 passed" in line for line in said) == 1, "the other part ran, too"


def test_a_module_that_cannot_be_read_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, said = run(tmp_path, monkeypatch, capfd, BROKEN, GOOD)
    assert status == 1
    assert said[-2] == "1 failed"


def test_a_part_without_tests_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, said = run(tmp_path, monkeypatch, capfd, "", GOOD)
    assert (status, said[-1]) == (1, "0: pytest ended with status 5")
