"""Searches Full-FT's settings: ``python -m full_finetune.tune --dataset bc5cdr --trials 20``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import SPAN_LOSS, Choice, Float
from full_finetune.spec import SPEC

SPACES = {
    "training": (
        Float("encoder_lr", 1e-6, 1e-4, log=True),
        Float("others_lr", 1e-6, 1e-3, log=True),
        Choice("train.schedule", ("linear", "cosine", "constant")),
        *SPAN_LOSS,
    ),
}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
