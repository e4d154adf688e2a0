"""``make demo``: the whole study on the embedded demo corpora, from nothing to tables and figures."""

from __future__ import annotations

import logging
import time

from common.paths import PROJECT_ROOT
from common.script import run_script
from common.study import __main__ as study

logger = logging.getLogger(__name__)

CORPORA = ("demo-jnlpba", "demo-bc5cdr")
OUTPUT = PROJECT_ROOT / "demo"
# The demo bases are barely pretrained: they want larger steps than a published model.
OPTIONS = PROJECT_ROOT / "examples" / "study_demo.json"
ARGUMENTS = (
    *("--dataset", *CORPORA, "--seeds", "42", "--base-model", "demo-bi", "--cross-base-model", "demo-cross"),
    *("--train-sizes", "200", "--few-shot-approaches", "glinerev"),
    *("--config", str(OPTIONS), "--output", str(OUTPUT)),
)  # fmt: skip


def main() -> None:
    """Runs the study and says where everything is.

    Raises:
        SystemExit: If a cell failed.
    """
    start = time.perf_counter()
    status = study.main(ARGUMENTS)
    logger.info("tables, figures and results are in %s/ after %.0f s", OUTPUT.name, time.perf_counter() - start)
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    run_script(main)
