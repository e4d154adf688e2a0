"""Fine-tunes a whole GLiNER model: ``python -m full_finetune.train --dataset bc5cdr --encoder bi``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.entry import Training
from common.errors import InputError
from common.script import run_script
from full_finetune.spec import SPEC


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains and returns the run folder."""
    training = Training(SPEC, argv)
    config = training.config
    if config.trainer == "gliner" and training.resume:
        raise InputError("--resume: gliner's trainer cannot resume; use --trainer common")
    data = training.data()
    model = training.model(data)
    if config.trainer == "common":
        return training.fit(model, data)

    from full_finetune.gliner_trainer import fit_with_gliner

    return fit_with_gliner(model, data, config, training.run(data)).path


if __name__ == "__main__":
    run_script(main)
