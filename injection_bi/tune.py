"""Searches SP-Bi's settings: ``python -m injection_bi.tune --dataset bc5cdr --trials 40``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import PROMPTS, TOKEN_LOSS, Float
from injection_bi.spec import SPEC

SPACES = {
    "training": (
        Float("prompt_encoder_lr", 1e-4, 1e-2, log=True),
        Float("projection_lr", 1e-4, 1e-2, log=True),
        *TOKEN_LOSS,
    ),
    "architecture": PROMPTS,
}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
