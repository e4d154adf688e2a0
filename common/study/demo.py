"""``make demo``: runs every approach on samples of the embedded demo corpora, from nothing to tables and figures."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.config import parse, take_output_root
from common.paths import output_root
from common.script import run_script
from common.study.__main__ import complete
from common.study.plan import StudyConfig

CORPORA = ("demo-jnlpba", "demo-bc5cdr")
TRAIN_SIZE, VALIDATION_SIZE, TEST_SIZE = 300, 80, 150
# The demo bases are barely pretrained: they want larger steps than a published model.
OPTIONS = Path(__file__).with_name("demo.json")


def folder() -> Path:
    """Where the demo is; samples of the corpora lie there, apart from the whole corpora of the same names."""
    return output_root() / "demo"


def arguments() -> list[str]:
    """The study of the demo."""
    return [
        *("--dataset", *(str(folder() / "datasets" / name) for name in CORPORA), "--seeds", "42"),
        *("--base-model", "demo-bi", "--cross-base-model", "demo-cross"),
        # The imports of one cell beside the work of another.
        *("--config", str(OPTIONS), "--output", str(folder()), "--workers", "2"),
    ]


def make_samples() -> None:
    """Generates the samples that are not there."""
    from common.data.dataset import MANIFEST_FILE
    from dataset_generation.generate import GenerateConfig, generate

    datasets = folder() / "datasets"
    for name in CORPORA:
        if not (datasets / name / MANIFEST_FILE).is_file():
            datasets.mkdir(parents=True, exist_ok=True)
            generate(
                GenerateConfig(
                    name,
                    train_size=TRAIN_SIZE,
                    validation_size=VALIDATION_SIZE,
                    test_size=TEST_SIZE,
                    output_dir=datasets,
                )
            )


HELP = "Run every approach on samples of the demo corpora, from nothing to tables; the options are those of a study."

EPILOGUE = """
Made in {seconds:.0f} s: {n_results} models tested on two small made-up corpora. The scores show that everything runs:
bases, sentences and epochs are far too few to tell which approach is better.

  demo/tables/main.md            the scores, with intervals; beside it types.md, errors.md, differences.md, figures
  demo/results/*.md              a report for each model, with its predictions beside it

Next:
  python -m common.study --help                                          the same on JNLPBA and BC5CDR, three seeds
  python -m dataset_generation.generate --dataset mine --source FOLDER --descriptions names
                                                                         your own corpus: CoNLL, JSON, BRAT, ...
  python -m glinerev.train --dataset mine --base-model demo-bi           one approach, on a base that needs no hub
  python -m glinerev.test --dataset mine --checkpoint latest
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the samples, runs the study and says what to do next.

    Args:
        argv: Further options of the study, such as ``--precision fp32``; those of the command line if not given.

    Raises:
        SystemExit: If a cell failed.
    """
    start = time.perf_counter()
    given = take_output_root(sys.argv[1:] if argv is None else argv)
    # So that the help shows the demo's own settings, not those of a study.
    config = parse(StudyConfig, given, default=parse(StudyConfig, arguments()), description=HELP)

    from common.study.runner import Study

    study = Study(config)
    if config.dry_run:
        print(study.outline())
        return
    make_samples()
    status = complete(study)
    if status:
        raise SystemExit(status)
    n_results = len(list(study.results.glob("*.json")))
    print(EPILOGUE.format(seconds=time.perf_counter() - start, n_results=n_results), end="")


if __name__ == "__main__":
    run_script(main)
