"""Searches SP-Base's settings: ``python -m softprompt_base.tune --dataset bc5cdr --trials 20``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import TOKEN_LOSS, Float
from softprompt_base.spec import SPEC

SPACES = {
    "training": (
        Float("table_lr", 1e-5, 1e-2, log=True),
        Float("projection_lr", 1e-5, 1e-2, log=True),
        *TOKEN_LOSS,
    ),
}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
