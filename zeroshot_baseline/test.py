"""Tests a GLiNER model as it is: ``python -m zeroshot_baseline.test --dataset bc5cdr --encoder bi``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.approach import count_parameters
from common.bases import load_base
from common.config import parse, to_dict
from common.data.dataset import load_dataset
from common.device import provenance
from common.entry import score
from common.evaluation.results import result_record
from common.paths import output_root
from common.script import run_script
from zeroshot_baseline.config import Config
from zeroshot_baseline.model import build


def main(argv: Sequence[str] | None = None) -> Path:
    """Tests and returns the path of the result file."""
    config = parse(Config, argv)
    data = load_dataset(config.dataset, config.encoder)
    base = load_base(config.base_model, config.encoder)
    model = build(config, base, data.labels)
    record = result_record(
        approach="zeroshot_baseline",
        variant=f"{config.encoder}, {config.labels}",
        data=data,
        base={"name": base.name, "revision": base.revision, "encoder": base.encoder},
        seed=None,
        config=to_dict(config),
        parameters={"total": count_parameters(model)[1], "trainable": 0, "with_gradient": 0},
        provenance=provenance(),
    )
    return score(
        output_root() / "zeroshot_baseline" / "test_results",
        model,
        data,
        record,
        split=config.split,
        runtime=config.runtime,
    )


if __name__ == "__main__":
    run_script(main)
