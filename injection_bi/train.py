"""Trains SP-Bi: ``python -m injection_bi.train --dataset bc5cdr``."""

from functools import partial

from common.entry import run_training
from common.script import run_script
from injection_bi.spec import SPEC

main = partial(run_training, SPEC)

if __name__ == "__main__":
    run_script(main)
