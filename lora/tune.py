"""Searches LoRA's settings: ``python -m lora.tune --dataset bc5cdr --trials 20``."""

from functools import partial

from common.script import run_script
from common.sweeps.command import run_tuning
from common.sweeps.space import SPAN_LOSS, Choice, Float
from lora.spec import SPEC

SPACES = {
    "training": (
        Float("adapter_lr", 1e-4, 1e-2, log=True),
        Float("head_lr", 1e-5, 1e-3, log=True),
        Float("word_dropout", 0.0, 0.5),
        Choice("train.schedule", ("linear", "cosine", "constant")),
        *SPAN_LOSS,
    ),
    "architecture": (
        Choice("method", ("lora", "dora", "rslora")),
        Choice("rank", (4, 8, 16, 32)),
        Choice("dropout", (0.0, 0.1)),
        Choice("encoder_dropout", (False, True)),
    ),
}

main = partial(run_tuning, SPEC, SPACES)

if __name__ == "__main__":
    run_script(main)
