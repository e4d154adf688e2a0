"""Searches NERLlama3.1's settings: ``python -m nerllama.tune --dataset bc5cdr --trials 20``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import Choice, Float
from nerllama.spec import SPEC

SPACES = {
    "training": (
        Float("adapter_lr", 1e-5, 1e-3, log=True),
        Choice("adapters.rank", (16, 32, 64)),
        Float("adapters.dropout", 0.0, 0.3),
        Float("train.warmup_ratio", 0.0, 0.2),
        Choice("training_shots", (0, 3, 5)),
    ),
}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
