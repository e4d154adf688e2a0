"""Tests a GLiNER model as it is: ``python -m zeroshot_baseline.test --dataset bc5cdr --encoder bi``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.config import parse, to_dict
from common.data.dataset import load_dataset
from common.entry import score
from common.script import run_script
from zeroshot_baseline.spec import SPEC


def main(argv: Sequence[str] | None = None) -> Path:
    """Tests and returns the path of the result file."""
    config = parse(SPEC.config, argv)
    data = load_dataset(config.dataset)

    from common.approach import count_parameters
    from common.checkpoint import base_record
    from common.device import provenance
    from common.evaluation.results import result_record

    base = SPEC.load_base(config)
    model = SPEC.build(config, base, data.labels)
    record = result_record(
        approach=SPEC.name,
        variant=SPEC.variant(config),
        data=data,
        base=base_record(base),
        seed=None,
        config=to_dict(config),
        parameters={"total": count_parameters(model)[1], "trainable": 0, "with_gradient": 0},
        provenance=provenance(),
    )
    return score(SPEC.test_results, model, data, record, split=config.split, runtime=config.runtime)


if __name__ == "__main__":
    run_script(main)
