from __future__ import annotations

import pytest

from hub.domain.delivery import RetryPolicy


def test_waits_double_up_to_the_longest_and_then_end() -> None:
    policy = RetryPolicy()
    waits = [policy.delay_after(n) for n in range(1, 11)]
    assert waits == [30, 60, 120, 240, 480, 600, 600, 600, 600, None]


@pytest.mark.parametrize(("asked", "wait"), [(None, 30), (5, 30), (90, 90)])
def test_a_peer_can_ask_for_more_patience_and_not_for_less(asked: float | None, wait: int) -> None:
    assert RetryPolicy().delay_after(1, asked) == wait
