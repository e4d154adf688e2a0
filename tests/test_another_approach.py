"""The contract knows nothing of GLiNER: a causal language model with a linear head becomes an approach by one
folder and one line.

The test works on a copy of the packages, to whose registry it adds the line, and uses every command as a user does.
"""

import json
import multiprocessing
import os
import runpy
import shutil
import sys
import time

import pytest
import torch
from tiny import SIZES, wordpiece
from transformers import LlamaConfig, LlamaForCausalLM

from common.paths import OUTPUT_VARIABLE, PROJECT_ROOT
from common.registry import APPROACHES
from common.training.records import RUN_FILE, WEIGHTS_FILE

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="forks a process with threads")]

PACKAGES = ("common", "dataset_generation", *APPROACHES)
ON_CPU = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the packages with the approach in it."""
    folder = tmp_path_factory.mktemp("house")
    for name in PACKAGES:
        shutil.copytree(PROJECT_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "savings"))
    shutil.copytree(PROJECT_ROOT / "tests" / "toy_causal", folder / "toy_causal")
    registry = folder / "common" / "registry.py"
    last = f'    "{APPROACHES[-1]}",\n'
    text = registry.read_text("utf-8")
    assert text.count(last) == 1
    registry.write_text(text.replace(last, f'{last}    "toy_causal",\n'), "utf-8")
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A tiny random Llama."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    torch.manual_seed(0)
    tokenizer = wordpiece(512)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def start(house, output, tmp_path, monkeypatch):
    """Starts commands of the copy one after another in a fork of this process, which spares it the import of torch."""
    monkeypatch.setenv(OUTPUT_VARIABLE, str(output))

    def work(*commands):
        with (tmp_path / "printed").open("w", encoding="utf-8") as printed:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        os.chdir(house)
        sys.path.insert(0, str(house))  # noqa: TID251 - the copy, in place of the project
        for name in [name for name in sys.modules if name.partition(".")[0] in (*PACKAGES, "gliner")]:
            del sys.modules[name]
        # Whoever imports it gets an error.
        sys.modules["gliner"] = None
        for command in commands:
            sys.argv = [str(word) for word in command]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

    def started(*commands):
        process = multiprocessing.get_context("fork").Process(target=work, args=commands)
        process.start()
        return process

    return started


@pytest.fixture
def run(start, tmp_path):
    """Runs commands of the copy to their end and returns what they printed."""

    def ran(*commands):
        process = start(*commands)
        process.join(200)
        printed = (tmp_path / "printed").read_text("utf-8")
        assert process.exitcode == 0, printed
        return printed

    return ran


def test_it_trains_is_killed_resumes_is_tested_tuned_studied_and_tabled(
    start, run, house, output, dataset_path, language_model, tmp_path
):
    options = ["--dataset", dataset_path, "--base-model", language_model, *ON_CPU, "--no-progress"]

    # Trained, and once more with a kill in between: the same weights.
    whole = ["toy_causal.train", *options, "--patience", "0"]
    run(whole)
    (first,) = (output / "toy_causal" / "savings").glob("*/")
    record = json.loads((first / RUN_FILE).read_text("utf-8"))
    assert (record["status"], record["base_model"]["kind"]) == ("finished", "causal")
    assert record["parameters"]["trainable"] == 33 * 4
    process = start([*whole, "--eval-every", "3"])
    deadline = time.monotonic() + 100
    while not (states := list(output.glob("toy_causal/savings/*/state_*"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    if states:
        run([*whole, "--eval-every", "3", "--resume", "latest"])
    for path in output.glob("toy_causal/savings/*/"):
        history = json.loads((path / RUN_FILE).read_text("utf-8"))["history"]
        assert history[-1]["epochs"] == 8.0
        assert history[-1]["step"] == 40

    printed = run(["toy_causal.test", *options[:2], *ON_CPU, "--checkpoint", first, "--no-progress"])
    assert "# toy_causal (scale 1) on tiny" in printed
    (result,) = (output / "toy_causal" / "test_results").glob("*.json")
    scores = json.loads(result.read_text("utf-8"))
    assert scores["speed"]["sentences"] == SIZES["test"]
    assert scores["scores"]["micro"]["f1"] > 0.05
    assert (first / WEIGHTS_FILE).stat().st_size < 2000

    study = ["common.study", "--dataset", dataset_path, "--approaches", "toy_causal", "--seeds", "1"]
    study += ["--other-base-models", f"causal={language_model}", *ON_CPU, "--epochs", "1"]
    run(["toy_causal.tune", *options, "--trials", "2", "--epochs", "1"], study)
    best = json.loads(next((output / "toy_causal" / "optuna").glob("*_best.json")).read_text("utf-8"))
    assert 1e-3 <= best["learning_rate"] <= 1e-1
    tables = output / "study" / "tables"
    assert "| Causal tagger | tiny-llama |" in (tables / "main.md").read_text("utf-8")
