"""Medians and ratios of the intake benchmark, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.intake_receivers import STORESCP

AIMS: Mapping[str, float] = {
    "storescp_best_1": 0.9,
    "storescp_best_4": 1.2,
    "orthanc_1": 4.0,
    "orthanc_4": 5.0,
    "pynetdicom_1": 5.0,
    "pynetdicom_4": 9.0,
    "stow_orthanc": 2.0,
    "cpu_storescp_1": 1.0,
}
"""Least ratio of instances/s, ours over theirs, on the CT images; of CPU time: the most."""

Rounds = Sequence[Mapping[str, Mapping[str, float]]]
Medians = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Corpus -> receiver -> what was sent -> the figures of the median."""


def summary(raw: Mapping[str, Mapping[str, Rounds]], sizes: Mapping[str, Any]) -> Medians:
    """The median of each figure over the rounds."""
    return {
        corpus: {
            receiver: {key: _median(rounds, key, sizes[corpus]) for key in rounds[0]}
            for receiver, rounds in receivers.items()
            if rounds
        }
        for corpus, receivers in raw.items()
    }


def _median(rounds: Rounds, key: str, size: Mapping[str, float]) -> dict[str, float]:
    count, of = size["instances"], [found[key] for found in rounds]
    rate = median(count / one["seconds"] for one in of)
    return {
        "instances_per_second": rate,
        "megabytes_per_second": rate * size["mean_bytes"] / 1e6,
        "cpu_milliseconds": median(1000 * one["cpu_seconds"] / count for one in of),
        "behind_seconds": median(one["behind_seconds"] for one in of),
    }


def ratios_of(medians: Medians) -> dict[str, float]:
    """Ours over theirs: instances/s, but for ``cpu_...``; those that the run can tell."""
    found: dict[str, float] = {}
    for corpus, receivers in medians.items():
        ours = receivers.get("hub", {})
        for key, us in ours.items():
            name = key if corpus == "ct" else f"{key}_{corpus}"
            for them in ("orthanc", "pynetdicom"):
                if theirs := receivers.get(them, {}).get(key):
                    _compare(found, f"{them}_{name}", us, theirs)
            measured = [receivers[s][key] for s in STORESCP if key in receivers.get(s, {})]
            if measured:
                best = max(measured, key=lambda one: one["instances_per_second"])
                _compare(found, f"storescp_best_{name}", us, best)
            if theirs := receivers.get("storescp", {}).get(key):
                _compare(found, f"storescp_default_{name}", us, theirs)
    renamed = {
        "stow_orthanc": "orthanc_stow_1",
        "cpu_storescp_1": "cpu_storescp_best_1",
    }
    found.update({new: found[old] for new, old in renamed.items() if old in found})
    return found


def _compare(
    found: dict[str, float], name: str, us: Mapping[str, float], them: Mapping[str, float]
) -> None:
    found[name] = us["instances_per_second"] / them["instances_per_second"]
    if them["cpu_milliseconds"]:
        found[f"cpu_{name}"] = us["cpu_milliseconds"] / them["cpu_milliseconds"]


def show(result: Mapping[str, Any], console: Console) -> None:
    """A table for each corpus, then the ratios that matter."""
    for corpus, receivers in result["medians"].items():
        size = result["corpora"][corpus]
        title = f"{corpus}: {size['instances']} x {size['mean_bytes'] / 1000:.0f} KB"
        table = Table(title=f"{title}, medians of {result['rounds']} rounds")
        table.add_column("receiver")
        for column in ("sent over", "instances/s", "MB/s", "CPU ms/instance", "behind, s"):
            table.add_column(column, justify="right")
        for receiver, keys in receivers.items():
            for key, one in keys.items():
                table.add_row(
                    receiver,
                    key,
                    f"{one['instances_per_second']:.0f}",
                    f"{one['megabytes_per_second']:.0f}",
                    f"{one['cpu_milliseconds']:.2f}",
                    f"{one['behind_seconds']:.2f}",
                )
        console.print(table)
    for name, aim in AIMS.items():
        if name in result["ratios"]:
            bound = "at most" if name.startswith("cpu") else "at least"
            console.print(f"{name}: {result['ratios'][name]:.2f} (aim: {bound} {aim})")
    if disk := result["overwrite_and_fdatasync_seconds"]:
        console.print(f"the disk alone, overwrite and sync: {1e6 * median(disk):.0f} us a CT image")
    console.print(
        "the hub's extents were prepared before the clock: the normal state, since they are"
        " recycled; 'behind' is how long after the last response its index was complete"
    )
