"""Tests a checkpoint: ``python -m toy_causal.test --dataset bc5cdr --checkpoint latest``."""

from functools import partial

from common.entry import run_test
from common.script import run_script
from toy_causal.spec import SPEC

main = partial(run_test, SPEC)

if __name__ == "__main__":
    run_script(main)
