"""``python -m benchmarks NAME [options]`` runs ``benchmarks.NAME.main(options)``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def names() -> list[str]:
    """Return the benchmarks that there are."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    # packages, and modules with an underscore in their name, are parts of benchmarks
    return sorted(m.name for m in modules if not m.ispkg and "_" not in m.name)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark that the first argument names; return its exit code."""
    if not argv or argv[0] not in names():
        wants_help = bool(argv) and argv[0] in {"-h", "--help"}
        print(
            f"usage: python -m benchmarks NAME [options]\nNAME is one of: {', '.join(names())}",
            file=sys.stdout if wants_help else sys.stderr,
        )
        return 0 if wants_help else 2
    run: Callable[[Sequence[str]], int] = importlib.import_module(f"benchmarks.{argv[0]}").main
    return run(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
