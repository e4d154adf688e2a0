"""Compares speed and memory with GLiNER's own code: ``python -m common.benchmark --dataset bc5cdr``.

Each figure is measured in its own process, one after another, so that none benefits from the memory or warm caches of
the one before. A ratio compares two figures of the same run.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.benchmark.config import Config
from common.config import parse
from common.files import put_between_markers, split_at_markers
from common.script import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and writes and prints the tables."""
    config = parse(Config, argv)
    if config.readme is not None:
        # Before hours of measuring, not after.
        split_at_markers(config.readme, "speed")

    from common.benchmark.bench import Bench
    from common.benchmark.report import read_benchmark, render

    if config.profile is not None:
        print(Bench(config).profile(config.profile))
        return
    tables = render(read_benchmark(config.show) if config.show is not None else Bench(config).run())
    if config.readme is not None:
        put_between_markers(config.readme, "speed", tables)
    print(tables)


if __name__ == "__main__":
    run_script(main)
