"""Golden numbers: two epochs of each approach on tiny models give the losses and scores in ``data/golden.json``.

A change that is meant to change them writes the file anew:
``python -m pytest tests/test_golden.py -n 0 --write-golden``.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import RUNTIME, Trial, write_dataset

from common.data.dataset import load_dataset
from common.device import make_accelerator
from common.evaluation.predict_split import evaluate
from common.files import read_json, write_json
from common.models.config import PromptConfig
from common.registry import spec, trained

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "data" / "golden.json"
RATES = {"prompt_encoder_lr": 0.01, "projection_lr": 0.01}
ADAPTED = {"adapter_lr": 0.005, "head_lr": 0.003}
FULL = {"encoder_lr": 0.003, "others_lr": 0.003}
# The default variants, with prompts that the tiny encoders have room for, rates at which tiny models learn something
# and, but for one that chooses its own, thresholds that their scores reach.
CASES = {
    "ldsa": ("ldsa", "bi-bert", {"learning_rate": 0.01}),
    "softprompt_base": ("softprompt_base", "bi-bert", {"table_lr": 0.01, "projection_lr": 0.01}),
    "injection_bi": ("injection_bi", "bi-bert", {"prompts": PromptConfig("attention", 8), **RATES}),
    "injection_cross": ("injection_cross", "cross-bert", {"prompts": PromptConfig("conv1d", 4), "learning_rate": 0.01}),
    "injection_cross span": (
        "injection_cross",
        "cross-bert",
        {"prompts": PromptConfig("conv1d", 4), "learning_rate": 0.01, "level": "span"},
    ),
    "glinerev": ("glinerev", "bi-bert", {"prompt_encoder_lr": 0.003, "downstream_lr": 0.003, "threshold": 0.05}),
    "full_finetune bi": ("full_finetune", "bi-bert", {"encoder": "bi", **FULL}),
    "vaner": ("vaner", "causal-llama", {"dbr": "off", "adapter_lr": 0.01, "head_lr": 0.01, "threshold": 0.2}),
    "nerllama": (
        "nerllama",
        "causal-llama",
        {
            "form": "multi",
            "training_shots": 1,
            "shots": 1,
            "max_sentence": 12,
            "max_length": 512,
            "adapter_lr": 0.01,
            "threshold": 0.0,
            "rows": 64,
        },
    ),
    "full_finetune cross": ("full_finetune", "cross-bert", {"encoder": "cross", **FULL, "threshold": 0.02}),
    "lora": ("lora", "bi-bert", ADAPTED),
    "lora dora": ("lora", "cross-bert", {"encoder": "cross", "method": "dora", **ADAPTED}),
}
FEWER = {"nerllama": 40}
"""Training sentences of slow cases; the others train on all."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of more sentences than the suite's own, so that the scores are above zero."""
    sizes = {"train": 160, "validation": 40, "test": 40}
    return write_dataset(tmp_path_factory.mktemp("golden") / "tiny", sizes=sizes)


@pytest.mark.parametrize("case", CASES)
def test_golden_numbers(case, folder, gliner_folder, request):
    approach, base, settings = CASES[case]
    data = load_dataset(str(folder))
    data = replace(data, train=data.train[: FEWER.get(case)])
    train = {"epochs": 2, "batch_size": 4, "patience": 0}
    # A split at a time: answers are generated batch by batch.
    runtime = replace(RUNTIME, eval_batch_size=40)
    made = Trial(spec(approach), gliner_folder(base), data, folder, train=train, runtime=runtime, **settings)
    model, run = made.train()
    scores = evaluate(model, data.test, runtime, make_accelerator(runtime)).report["scores"]
    history = run.record["history"]
    found = {
        "train_loss": [entry["train_loss"] for entry in history],
        "validation_micro_f1": [entry["validation"]["micro_f1"] for entry in history],
        "validation_macro_f1": [entry["validation"]["macro_f1"] for entry in history],
        "test_micro_f1": scores["micro"]["f1"],
        "test_macro_f1": scores["macro"]["f1"],
    }
    if request.config.getoption("--write-golden"):
        rounded = {
            name: [round(item, 6) for item in value] if isinstance(value, list) else round(value, 6)
            for name, value in found.items()
        }
        before = read_json(GOLDEN) if GOLDEN.exists() else {}
        write_json(GOLDEN, {name: value for name, value in before.items() if name in CASES} | {case: rounded})
    for name, value in read_json(GOLDEN)[case].items():
        assert found[name] == pytest.approx(value, abs=1e-4), name


def test_every_trained_approach_has_golden_numbers():
    assert {approach for approach, _, _ in CASES.values()} == set(trained())
    assert set(read_json(GOLDEN)) == set(CASES)
