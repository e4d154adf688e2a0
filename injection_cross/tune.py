"""Searches SP-Cross's settings: ``python -m injection_cross.tune --dataset bc5cdr --trials 20``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import PROMPTS, TOKEN_LOSS, Float
from injection_cross.spec import SPEC

SPACES = {
    "training": (
        Float("learning_rate", 1e-5, 1e-2, log=True),
        *TOKEN_LOSS,
    ),
    "architecture": PROMPTS,
}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
