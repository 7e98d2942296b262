"""A FHIR transaction as its rules look at it: resources by type and by URL, and every object in
them once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

Json = dict[str, Any]


@dataclass(frozen=True)
class BundleView:
    """What the rules need of a Bundle whose shape is right."""

    bundle: Json

    @property
    def entries(self) -> list[Json]:
        found: list[Json] = self.bundle["entry"]
        return found

    @cached_property
    def resources(self) -> list[Json]:
        return [entry["resource"] for entry in self.entries]

    @cached_property
    def by_url(self) -> dict[str, Json]:
        return {entry["fullUrl"]: entry["resource"] for entry in self.entries}

    @cached_property
    def objects(self) -> list[tuple[Json, Json]]:
        """Every JSON object with the resource of the entry that it stands in."""
        return [(resource, one) for resource in self.resources for one in objects_in(resource)]

    def of_type(self, *resource_types: str) -> list[Json]:
        return [one for one in self.resources if one["resourceType"] in resource_types]

    @property
    def reports(self) -> list[Json]:
        return self.of_type("DiagnosticReport")

    @property
    def observations(self) -> list[Json]:
        return self.of_type("Observation")

    @cached_property
    def named_observations(self) -> list[Json]:
        """Those that the report names itself or through a group."""
        found: dict[str, Json] = {}
        waiting = [item["reference"] for one in self.reports for item in one.get("result", [])]
        while waiting:
            url = waiting.pop()
            observation = self.by_url.get(url)
            if observation is not None and url not in found:
                found[url] = observation
                waiting += [item["reference"] for item in observation.get("hasMember", [])]
        return list(found.values())


def resources_of(content: bytes) -> list[tuple[str, str]]:
    """Type and id of every resource in a transaction of ours: the UUID of its ``fullUrl``."""
    entries = orjson.loads(content)["entry"]
    return [(e["resource"]["resourceType"], e["fullUrl"].rpartition(":")[2]) for e in entries]


def objects_in(value: Json) -> list[Json]:
    """Every JSON object in a value, itself included."""
    found: list[Json] = []
    waiting: list[Any] = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            found.append(one)
            waiting += [inner for inner in one.values() if isinstance(inner, dict | list)]
        else:
            waiting += [inner for inner in one if isinstance(inner, dict | list)]
    return found


def first_codes(concepts: list[Json]) -> list[str]:
    """The codes of a list of CodeableConcepts."""
    return [coding.get("code", "") for one in concepts for coding in one.get("coding", [])]
