"""Searches LDSA's settings: ``python -m ldsa.tune --dataset bc5cdr --trials 25``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import Choice, Float
from ldsa.spec import SPEC

SPACES = {
    "training": (
        Float("learning_rate", 1e-6, 1e-3, log=True),
        Float("train.weight_decay", 1e-6, 1e-1, log=True),
        Float("token.temperature", 0.01, 1.5, log=True),
        Choice("train.batch_size", (8, 16, 32, 64, 128)),
        Float("train.warmup_ratio", 0.0, 0.3),
        Float("train.max_grad_norm", 0.5, 2.0),
    ),
}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
