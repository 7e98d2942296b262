"""What the configuration says of retention, and of late, missing and early images."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hub.bootstrap.worker import retention_policy, routes_of
from hub.config import Settings, load_settings
from hub.domain.routing import LateImages, RouteStart, WhenIncomplete
from hub.errors import ConfigError
from hub.registry import discover
from hub.store.retention import Kept

ROUTE = """
routes:
  - name: chest
    when: "true"
    model: lung-density
"""


def settings(text: str) -> Settings:
    return load_settings(text, "caidx.yaml", discover())


def test_a_route_says_when_it_starts_and_what_late_and_missing_images_mean() -> None:
    (plain,) = routes_of(settings(ROUTE))
    assert (plain.start, plain.late_images, plain.incomplete) == (
        RouteStart.STUDY,
        LateImages.RERUN,
        WhenIncomplete.STATE,
    )
    (told,) = routes_of(
        settings(ROUTE + "    start: series\n    late_images: keep\n    incomplete: refuse\n")
    )
    assert (told.start, told.late_images, told.incomplete) == (
        RouteStart.SERIES,
        LateImages.KEEP,
        WhenIncomplete.REFUSE,
    )


def test_a_route_overrides_one_time_and_keeps_the_other() -> None:
    text = ROUTE + "    retention: {images_days: 90}\nretention: {images_days: 7}\n"
    policy = retention_policy(settings(text))
    assert policy.general == Kept(timedelta(days=7), timedelta(days=365))
    assert policy.by_route == {"chest": Kept(timedelta(days=90), timedelta(days=365))}
    assert policy.minimum_free_bytes == 10 << 30
    assert policy.youngest == timedelta(days=1)


def test_images_are_deleted_before_new_ones_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        settings("retention:\n  minimum_free_gib: 1\n")
    (problem,) = caught.value.problems
    assert (problem.field, problem.line) == ("retention.minimum_free_gib", 2)
    assert settings("retention: {minimum_free_gib: 0}").retention.minimum_free_gib == 0


@pytest.mark.parametrize(
    ("text", "field", "line"),
    [
        ("retention:\n  images_days: 30\n  results_days: 3\n", "retention.results_days", 3),
        (
            ROUTE + "    retention:\n      images_days: 400\n",
            "routes.0.retention.results_days",
            6,
        ),
    ],
)
def test_reports_are_not_deleted_before_their_images(text: str, field: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(text)
    (problem,) = caught.value.problems
    assert (problem.field, problem.line) == (field, line)
    assert "before images" in problem.message
