"""Writes a tuned model as a plain GLiNER: ``python -m full_finetune.export --checkpoint latest --output plain``."""

from functools import partial

from common.entry import run_export
from common.script import run_script
from full_finetune.spec import SPEC

main = partial(run_export, SPEC)

if __name__ == "__main__":
    run_script(main)
