"""Tests an SP-Cross checkpoint: ``python -m injection_cross.test --dataset bc5cdr --checkpoint latest``."""

from functools import partial

from common.entry import run_test
from common.script import run_script
from injection_cross.spec import SPEC

main = partial(run_test, SPEC)

if __name__ == "__main__":
    run_script(main)
