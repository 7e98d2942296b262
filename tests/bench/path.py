"""How long a report takes, from the last image to its last confirmed delivery.

``python -m tests.bench.path`` compares the hub, round by round, with a bare script that does
the same work once (``path_floor``), on a study of 1 image and on a CT of 200 slices.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hub.store.packages import read_package
from model_adapters.reference_models import LUNG_DENSITY
from tests.bench.path_floor import Floor
from tests.bench.path_hub import QUIET_SECONDS, RunningHub, running_hub
from tests.bench.path_study import Peers, new_study, running_peers
from tests.bench.results import FOLDER, Parts, facts, medians, write
from tests.peers import find_tool

CASES = {"one_image": 1, "ct200": 200}
AIM_CT200_OVER_FLOOR = 1.3
AIM_ONE_IMAGE_BEYOND_QUIET = 0.3
PACKAGES = ("caidx-hub", "dbos", "onnxruntime", "pynetdicom", "highdicom", "sqlalchemy", "numpy")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rounds of both sides for one study size, without the first one."""

    slices: int
    threads: int
    first: Parts
    """The hub's first round, which counts in no median."""
    hub: list[Parts]
    floor: list[Parts]

    @property
    def beyond_quiet(self) -> float:
        """Median of the hub's time without the configured quiet time, seconds."""
        return medians(self.hub)["total"] - QUIET_SECONDS

    @property
    def over_floor(self) -> float:
        return self.beyond_quiet / medians(self.floor)["total"]


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared, and where both deliver to."""

    hub: RunningHub
    floor: Floor
    peers: Peers


def compare(sides: Sides, slices: int, rounds: int, folder: Path) -> Comparison:
    """Alternate both sides, each with a study of its own; which one goes first alternates too."""
    threads = sides.floor.best_threads(new_study(folder / "threads", slices))
    ours: list[Parts] = []
    theirs: list[Parts] = []
    for number in range(rounds + 1):
        for side in ("hub", "floor") if number % 2 else ("floor", "hub"):
            study = new_study(folder / f"{number}-{side}", slices)
            sides.peers.reset()
            if side == "hub":
                ours.append(sides.hub.report_on(study))
            else:
                theirs.append(sides.floor.report_on(study, threads))
            shutil.rmtree(folder / f"{number}-{side}")
    return Comparison(slices, threads, ours[0], ours[1:], theirs[1:])


def run(rounds: int, folder: Path) -> dict[str, Any]:
    """Measure every case; the result as it is kept."""
    found: dict[str, Comparison] = {}
    with running_peers(folder) as peers, running_hub(folder / "hub", peers) as hub:
        idle = hub.cores_when_idle()
        floor = Floor(read_package(LUNG_DENSITY), peers, len(os.sched_getaffinity(0)))
        for name, slices in CASES.items():
            found[name] = compare(Sides(hub, floor, peers), slices, rounds, folder / name)
        floor.close()
        orthanc = find_tool("Orthanc", "orthanc", Path("/usr/sbin"))
        about = facts(
            *PACKAGES,
            orthanc=[orthanc, "--version"],
            node=[find_tool("node", "nodejs"), "--version"],
        )
    return {
        "ratios": {f"{name}_over_floor": case.over_floor for name, case in found.items()},
        "seconds": {
            "quiet_time": QUIET_SECONDS,
            **{f"{name}_beyond_quiet": case.beyond_quiet for name, case in found.items()},
            "first_report_beyond_quiet": found["one_image"].first["total"] - QUIET_SECONDS,
        },
        "aims": {
            "ct200_over_floor": AIM_CT200_OVER_FLOOR,
            "one_image_beyond_quiet": AIM_ONE_IMAGE_BEYOND_QUIET,
        },
        "rounds": rounds,
        "cores_taken_when_idle": idle,
        "cases": {
            name: {
                "slices": case.slices,
                "floor_threads": case.threads,
                "hub_medians": medians(case.hub),
                "floor_medians": medians(case.floor),
                "hub_rounds": case.hub,
                "floor_rounds": case.floor,
            }
            for name, case in found.items()
        },
        **about,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Both sides beside each other, in milliseconds."""
    for name, case in result["cases"].items():
        table = Table(title=f"{case['slices']} x 512 x 512, medians of {result['rounds']} rounds")
        table.add_column("part")
        for side in ("hub, ms", "bare script, ms", "difference, ms"):
            table.add_column(side, justify="right")
        ours, theirs = case["hub_medians"], case["floor_medians"]
        for part, seconds in ours.items():
            table.add_row(part, *(f"{1000 * s:.1f}" for s in _beside(seconds, theirs.get(part))))
        console.print(table)
        ratio, beyond = result["ratios"], result["seconds"]
        console.print(
            f"{name}: {beyond[f'{name}_beyond_quiet']:.3f} s beyond the quiet time,"
            f" {ratio[f'{name}_over_floor']:.2f} x the bare script"
            f" ({case['floor_threads']} threads)\n"
        )
    console.print(
        f"aims: ct200 at most {AIM_CT200_OVER_FLOOR} x the bare script,"
        f" one image at most {AIM_ONE_IMAGE_BEYOND_QUIET} s beyond the quiet time;"
        f" the first report after the start took"
        f" {result['seconds']['first_report_beyond_quiet']:.3f} s beyond it;"
        f" idle, the hub takes {result['cores_taken_when_idle']:.2f} of a core"
    )


def _beside(ours: float, theirs: float | None) -> tuple[float, ...]:
    return (ours,) if theirs is None else (ours, theirs, ours - theirs)


def main(arguments: Sequence[str]) -> int:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.path", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (at least 5)")
    options = parser.parse_args(arguments)
    if options.rounds < 5:
        parser.error("a median of fewer than 5 rounds says little")
    console = Console()
    FOLDER.mkdir(parents=True, exist_ok=True)  # on the disk that a hub would use by default
    with tempfile.TemporaryDirectory(prefix="path-", dir=FOLDER) as folder:
        result = run(options.rounds, Path(folder).absolute())
    show(result, console)
    console.print(f"kept in {write('path', result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
