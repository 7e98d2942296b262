"""``python -m tests.bench [NAME ...]``: all benchmarks, or those that are named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from tests.bench import documents, inference, intake, path, restart

BENCHMARKS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "inference": inference.main,
    "intake": intake.main,
    "path": path.main,
    "restart": restart.main,
    "results": documents.main,
}


def main(arguments: Sequence[str]) -> int:
    """Options after the names go to each of them."""
    names = [argument for argument in arguments if not argument.startswith("-")]
    options = [argument for argument in arguments if argument.startswith("-")]
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        print(f"no such benchmark: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    return max(BENCHMARKS[name](options) for name in names or BENCHMARKS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
