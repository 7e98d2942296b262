"""``caidx`` and ``python -m hub``."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and leave with its exit status.

    The program is imported here, for the processes of models are copies of this module and not of
    all that; and without the collector of cycles, which would find nothing in what is imported.
    """
    gc.disable()
    from hub.cli.app import run  # noqa: PLC0415 - see above

    sys.exit(run())


if __name__ == "__main__":
    main()
