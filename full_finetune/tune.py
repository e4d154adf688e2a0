"""Searches Full-FT's settings: ``python -m full_finetune.tune --dataset bc5cdr --trials 20``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import Choice, Float, Switch
from full_finetune.spec import SPEC

SPACES = {
    "training": (
        Float("encoder_lr", 1e-6, 1e-4, log=True),
        Float("others_lr", 1e-6, 1e-3, log=True),
        Choice("train.schedule", ("linear", "cosine", "constant")),
        Switch("use_focal"),
        Float("focal_gamma", 2.0, 5.0, when="use_focal"),
        Float("focal_alpha", 0.25, 0.75, when="use_focal"),
    ),
}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
