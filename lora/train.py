"""Trains adapters in GLiNER's encoders: ``python -m lora.train --dataset bc5cdr --method lora``."""

from functools import partial

from common.entry import run_training
from common.script import run_script
from lora.spec import SPEC

main = partial(run_training, SPEC)

if __name__ == "__main__":
    run_script(main)
