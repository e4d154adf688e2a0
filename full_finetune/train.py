"""Fine-tunes a whole GLiNER model: ``python -m full_finetune.train --dataset bc5cdr --encoder bi``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.entry import prepare_run
from common.errors import InputError
from common.script import run_script
from common.training.loop import fit
from full_finetune.gliner_trainer import fit_with_gliner
from full_finetune.model import SPEC


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains and returns the run folder."""
    config, run, data, model = prepare_run(SPEC, argv)
    if config.trainer == "common":
        return fit(model, data, config.train, config.runtime, run).path
    if run.resumed:
        raise InputError("--resume: gliner's trainer cannot resume; use --trainer common")
    return fit_with_gliner(model, data, config, run).path


if __name__ == "__main__":
    run_script(main)
