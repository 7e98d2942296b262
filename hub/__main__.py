"""``caidx`` and ``python -m hub``."""

from __future__ import annotations

import sys

from hub.cli.app import run


def main() -> None:
    """Run the command line and leave with its exit status."""
    sys.exit(run())


if __name__ == "__main__":
    main()
