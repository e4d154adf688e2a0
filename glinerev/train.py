"""Trains SP-GLiNER: ``python -m glinerev.train --dataset bc5cdr``."""

from functools import partial

from common.entry import run_training
from common.script import run_script
from glinerev.spec import SPEC

main = partial(run_training, SPEC)

if __name__ == "__main__":
    run_script(main)
