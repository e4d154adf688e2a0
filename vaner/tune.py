"""Searches VANER's settings: ``python -m vaner.tune --dataset bc5cdr --trials 20``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import Choice, Float
from vaner.spec import SPEC

SPACES = {
    "training": (
        Float("adapter_lr", 2e-5, 1e-3, log=True),
        Float("head_lr", 2e-5, 5e-3, log=True),
        Choice("adapters.rank", (8, 12, 16, 32)),
        Float("adapters.dropout", 0.0, 0.3),
        Float("dbr_weight", 0.1, 2.0, log=True),
        Float("negatives", 0.2, 1.0),
    ),
}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
