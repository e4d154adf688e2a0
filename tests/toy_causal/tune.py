"""Searches the causal tagger's settings: ``python -m toy_causal.tune --dataset bc5cdr --trials 5``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import Float
from toy_causal.spec import SPEC

SPACES = {"training": (Float("learning_rate", 1e-3, 1e-1, log=True),)}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
