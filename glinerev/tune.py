"""Searches SP-GLiNER's settings: ``python -m glinerev.tune --dataset bc5cdr --trials 20``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import SPAN_LOSS, Float
from glinerev.spec import SPEC

SPACES = {
    "training": (
        Float("prompt_encoder_lr", 1e-4, 1e-2, log=True),
        Float("downstream_lr", 1e-6, 1e-3, log=True),
        Float("train.warmup_ratio", 0.0, 0.2),
        Float("word_dropout", 0.0, 0.5),
        *SPAN_LOSS,
    ),
}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
