"""What comes from elsewhere or goes wrong: foreign files are data, weights are what they say, records have a
schema, the system says no.
"""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from stat import S_ISDIR

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from tiny import QUICK, RUNTIME, Trial, message_of, python, save_gliner

import common.benchmark.__main__
import common.compare
import common.device
import common.errors_page
import common.predict
import dataset_generation.generate
import full_finetune.spec
import glinerev.export
import glinerev.spec
import glinerev.test
import glinerev.train
import glinerev.tune
import optuna_plots
import softprompt_base.spec
import softprompt_base.train
import zeroshot_baseline.test
from common.bases import load_base
from common.checkpoint import load_checkpoint, resume_run, start_run
from common.data.dataset import SPLITS, make_sentence, span_file
from common.data.spans import Span
from common.device import make_accelerator
from common.entry import run_test
from common.evaluation.error_kinds import error_report
from common.evaluation.metrics import count_spans, span_scores
from common.evaluation.results import counts_path, read_counts, read_result, render
from common.files import read_json, sha256_file, write_json
from common.models.features import FeatureCache
from common.paths import PROJECT_ROOT, is_file_name
from common.script import run_script
from common.settings import parse_training
from common.training.records import RUN_FILE, WEIGHTS_FILE, find_checkpoint, runs_of
from common.training.run_folder import Run, load_tensors, tidy_runs

SP, FT, TOKENS = glinerev.spec.SPEC, full_finetune.spec.SPEC, softprompt_base.spec.SPEC


@pytest.fixture
def base(gliner_folder, tmp_path):
    """A copy of a tiny base to break."""
    folder = tmp_path / "base"
    shutil.copytree(gliner_folder("bi-bert"), folder)
    return folder


def refused(source: Path) -> str:
    return message_of(load_base, str(source), "bi")


def change(path: Path, *keys: str, value) -> None:
    """Sets a nested value of a JSON file."""
    whole = inner = read_json(path)
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    inner[keys[-1]] = value
    write_json(path, whole)


# -- foreign files are data -------------------------------------------------------------------------------------------

CANARY = "from pathlib import Path\n(Path(__file__).parent / 'canary').touch()\nPath({mark!r}).touch()\n" + (
    "from transformers import BertConfig, BertModel, BertTokenizerFast\n"
    "class Config(BertConfig): pass\nclass Model(BertModel): pass\nclass Tokenizer(BertTokenizerFast): pass\n"
)
MAPS = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("gliner_config.json", ("encoder_config", "auto_map"), MAPS),
        ("gliner_config.json", ("labels_encoder_config", "auto_map"), MAPS),
        ("gliner_config.json", ("encoder_config", "auto_map"), {"AutoModel": "owner/repository--evil.Model"}),
        ("gliner_config.json", ("encoder_config", "trust_remote_code"), True),
        ("gliner_config.json", ("_attn_implementation",), "owner/kernels"),
        ("tokenizer_config.json", ("auto_map",), MAPS),
        ("labels_tokenizer/tokenizer_config.json", ("auto_map",), MAPS),
        ("config.json", ("auto_map",), MAPS),
    ],
)
def test_a_base_that_names_code_is_refused_before_anything_is_loaded(base, tmp_path, monkeypatch, file, keys, value):
    mark = tmp_path / "canary"
    (base / "evil.py").write_text(CANARY.format(mark=str(mark)), "utf-8")
    (base / "labels_tokenizer" / "evil.py").write_text(CANARY.format(mark=str(mark)), "utf-8")
    if not (base / file).is_file():
        write_json(base / file, {"model_type": "bert"})
    change(base / file, *keys, value=value)
    monkeypatch.setattr("gliner.GLiNER.from_pretrained", lambda *_, **__: pytest.fail("something was loaded"))
    message = refused(base)
    assert f"{file} names code to be run, {'.'.join(keys)}: " in message
    assert not mark.exists()
    assert not list(base.rglob("canary"))


def test_an_encoder_that_a_base_leads_to_runs_no_code(base, tmp_path, monkeypatch):
    """The base's own configuration is clean and leaves its encoder to another folder, where the code is."""
    other, mark = tmp_path / "encoder", tmp_path / "canary"
    other.mkdir()
    (other / "evil.py").write_text(CANARY.format(mark=str(mark)), "utf-8")
    encoder = read_json(base / "gliner_config.json")["encoder_config"]
    write_json(other / "config.json", encoder | {"auto_map": MAPS})
    change(base / "gliner_config.json", "encoder_config", value=None)
    change(base / "gliner_config.json", "model_name", value=str(other))
    assert "names code to be run" in refused(base)
    assert not mark.exists()
    # The guard is gone afterwards.
    modules = sys.modules["transformers.dynamic_module_utils"]
    assert modules.get_cached_module_file.__module__ == modules.__name__
    assert modules.TIME_OUT_REMOTE_CODE > 0


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_weights_in_pickles_format_run_nothing(base, tmp_path):
    mark = tmp_path / "canary"
    (base / "model.safetensors").unlink()
    torch.save({"a": Payload(mark)}, base / "pytorch_model.bin")
    assert f"base model {str(base)!r} could not be loaded: " in refused(base)
    assert not mark.exists()


def test_weights_in_pickles_format_are_the_same_weights(base, gliner_folder):
    whole = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(whole, base / "pytorch_model.bin")
    expected = load_base(str(gliner_folder("bi-bert")), "bi").core.state_dict()
    found = load_base(str(base), "bi").core.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    torch.save({name: tensor for name, tensor in whole.items() if "span_rep" not in name}, base / "pytorch_model.bin")
    assert "pytorch_model.bin does not hold the weights of its model" in refused(base)


# -- weights are what they say ----------------------------------------------------------------------------------------


def test_a_base_whose_tensors_are_not_those_of_its_model(base):
    path = base / "model.safetensors"
    whole = load_file(path)
    name = sorted(whole)[5]

    save_file({key: value for key, value in whole.items() if key != name}, path)
    assert (
        f"model.safetensors does not hold the weights of its model: 1 missing ['{name}'], 0 unexpected []"
        in refused(base)
    )
    save_file({}, path)
    assert f"{len(whole)} missing" in refused(base)
    save_file(whole | {"core.extra": torch.zeros(1)}, path)
    assert "0 missing [], 1 unexpected ['core.extra']" in refused(base)

    for value in (float("nan"), float("inf"), float("-inf")):
        broken = whole[name].clone()
        broken.flatten()[-1] = value
        save_file(whole | {name: broken}, path)
        assert f"tensor {name} has values that are no finite numbers" in refused(base)
    save_file(whole | {name: whole[name].long()}, path)
    assert f"tensor {name} has values that are no finite numbers" in refused(base)

    # What an earlier version of transformers stored beside the weights.
    save_file(whole | {"token_rep_layer.bert_layer.model.embeddings.position_ids": torch.arange(9)[None]}, path)
    load_base(str(base), "bi")


def test_a_git_lfs_pointer_is_named_as_such(base):
    (base / "model.safetensors").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n", "utf-8"
    )
    assert refused(base).endswith("model.safetensors is a Git LFS pointer, not the weights; run: git lfs pull")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("max_width",), "4", r"max_width must be a whole number, got '4'"),
        (("max_width",), 10**12, r"max_width must be between 1 and 1000, got 1000000000000"),
        (("max_len",), "long", r"max_len must be a whole number or null, got 'long'"),
        (("max_len",), 0, r"max_len must be at least 1, got 0"),
        (("hidden_size",), None, r"hidden_size must be a whole number, got None"),
        (("encoder_config",), [], r"encoder_config must be an object or null, got []"),
    ],
)
def test_configurations_of_a_base_are_checked(base, keys, value, message):
    change(base / "gliner_config.json", *keys, value=value)
    assert f"gliner_config.json: {message}" in refused(base)


@pytest.mark.parametrize("weights", [b"", b"\x80\x04.", b"PK\x03\x04", b"no weights"])
def test_broken_weights_in_pickles_format(base, weights):
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(weights)
    assert "could not be loaded: " in refused(base)


def test_a_base_without_a_tokenizer_says_so(base):
    for path in base.glob("tokenizer*"):
        path.unlink()
    assert "it has no tokenizer (tokenizer_config.json), and that of" in refused(base)


def test_both_kinds_of_base_load_as_they_are(tmp_path):
    for kind, backbone in (("bi", "deberta"), ("cross", "bert")):
        load_base(str(save_gliner(tmp_path / f"{kind} #%20?é", kind, backbone)), kind)


def test_an_export_touches_no_folder_of_the_users(trial, tmp_path):
    made = trial(SP, "bi-bert", train={"epochs": 1})
    made.train()
    mine = tmp_path / "e" / ".plain.tmp" / "thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("text")
    glinerev.export.main(["--output", str(tmp_path / "e" / "plain")])
    assert mine.read_text() == "text"
    assert {path.name for path in (tmp_path / "e").iterdir()} == {".plain.tmp", "plain"}
    load_base(str(tmp_path / "e" / "plain"), "bi")


@pytest.mark.parametrize("name", ["", ".", "..", "../evil", "a/b", "a\\b", "/etc", "a\0b", "a\nb"])
def test_what_is_no_file_name(name):
    assert not is_file_name(name)
    assert is_file_name("bc5cdr é #%20?")


# -- runs: their weights, records and states --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(trial, tmp_path_factory):
    """The trial and folder of a run that was killed after its first of two epochs."""
    made = trial(SP, "bi-bert", train={"epochs": 2})

    def kill(_entry) -> None:
        raise KeyboardInterrupt

    run = start_run(SP, made.config, made.data, made.named_base(), tmp_path_factory.mktemp("killed"))
    with pytest.raises(KeyboardInterrupt):
        made.fit(made.model(), run, on_validation=kill)
    return made, run.path


@pytest.fixture
def unfinished(killed, output):
    """The trial and a copy of its folder."""
    made, path = killed
    return made, shutil.copytree(path, SP.savings / path.name)


@pytest.mark.parametrize(
    ("change_to", "message"),
    [
        (lambda tensor: torch.full_like(tensor, float("inf")), "has values that are no finite numbers"),
        (
            lambda tensor: torch.cat([tensor.flatten()[1:], tensor.new_tensor([float("nan")])]).view_as(tensor),
            "no finite",
        ),
        (lambda tensor: tensor.long(), "is int64, weights are floats"),
        (lambda tensor: tensor > 0, "is bool, weights are floats"),
    ],
)
def test_trained_tensors_that_are_no_weights(run_json, tmp_path, change_to, message):
    path = shutil.copytree(run_json, tmp_path / "run")
    tensors = load_tensors(path / WEIGHTS_FILE)
    name = sorted(tensors)[2]
    save_file(tensors | {name: change_to(tensors[name])}, path / WEIGHTS_FILE)
    found = message_of(lambda: load_checkpoint(SP, path))
    assert f"{path / WEIGHTS_FILE}: {name} " in found
    assert message in found


HUGE = 10**4000
ODD_FIELDS = [
    (("status",), "done", "status must be one of 'running', 'finished', 'interrupted', 'failed', got 'done'"),
    (("created",), 5, "created must be a text, got 5"),
    (("created",), None, "created must be a text, got None"),
    (("dataset",), "tiny", "dataset must be an object, got 'tiny'"),
    (("dataset",), None, "dataset must be an object, got None"),
    (("dataset",), {}, "dataset lacks ['name']"),
    (("dataset", "name"), "../../evil", "dataset.name must be a name without a path in it, got '../../evil'"),
    (("base_model",), "x", "base_model must be an object, got 'x'"),
    (("base_model", "revision"), 7, "base_model.revision must be a text, got 7"),
    (("labels",), ["a"], "labels must be an object, got ['a']"),
    (("labels", "names"), ["a", 5], "labels.names[1] must be a text, got 5"),
    (("labels", "names"), ["a", "a", "b"], "labels: entity types are repeated: ['a']"),
    (("labels", "names"), ["a"], "labels: 1 entity types but 3 descriptions"),
    (("labels", "outside_description"), "\ud800", "labels.outside_description holds half of a surrogate pair"),
    (("variant",), ["residual"], "variant must be an object, got ['residual']"),
    (("config",), [], "config must be an object, got []"),
    (("config", "train"), 5, "train must be an object, got 5"),
    (("config", "train", "epochs"), "3", "train: epochs must be a whole number, got '3'"),
    (("config", "threshold"), -1, "threshold must be between 0 and 1, got -1"),
    (("seed",), 2**32, "seed must be between 0 and 2^32 - 1, got 4294967296"),
    (("seed",), HUGE, "seed must be between 0 and 2^32 - 1"),
    (("threshold",), 5, "threshold must be between 0 and 1, got 5"),
    (("threshold",), -1, "threshold must be between 0 and 1, got -1"),
    (("threshold",), "x", "threshold must be a number or null, got 'x'"),
    (("threshold",), HUGE, "threshold must be a"),
    (("type_thresholds",), {"protein": 2}, "type_thresholds.protein must be between 0 and 1, got 2"),
    (("type_thresholds",), 0.5, "type_thresholds must be an object, got 0.5"),
    (("best",), None, "best must be an object, got None"),
    (("best", "epoch"), "1", "best.epoch must be a whole number, got '1'"),
    (("parameters", "total"), -5, "parameters.total must be at least 0, got -5"),
    (("history",), {}, "history must be a list, got {}"),
    (("history",), [5], "history[0] must be an object, got 5"),
    (("precision",), "fp8", "precision must be one of 'fp32', 'bf16', 'fp16', got 'fp8'"),
    (("peak_memory_mb",), {"cpu": True}, "peak_memory_mb.cpu must be a number, got True"),
    (("provenance",), [], "provenance must be an object, got []"),
    (("earlier_provenance",), {}, "earlier_provenance must be a list, got {}"),
]


@pytest.fixture(scope="module")
def run_json(tmp_path_factory, gliner_folder, data, dataset_path):
    """The folder of a finished run for all tests of this file that change only its record."""
    made = Trial(SP, gliner_folder("bi-bert"), data, dataset_path, train={"epochs": 1})
    run = start_run(SP, made.config, data, made.named_base(), tmp_path_factory.mktemp("runs"))
    return made.fit(made.model(), run).path


@pytest.mark.parametrize(
    ("keys", "value", "message"), ODD_FIELDS, ids=[f"{'.'.join(k)} {str(v)[:20]!r}" for k, v, _ in ODD_FIELDS]
)
def test_odd_fields_of_a_record_are_named_and_the_run_is_passed_over(
    run_json, tmp_path, output, caplog, keys, value, message
):
    good, odd = output / "glinerev" / "savings" / "a", output / "glinerev" / "savings" / "b"
    for folder in (good, odd):
        shutil.copytree(run_json, folder)
    whole = inner = read_json(odd / RUN_FILE)
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (odd / RUN_FILE).write_text(json.dumps(whole), "utf-8")
    found = message_of(lambda: load_checkpoint(SP, odd))
    assert message in found
    assert found.startswith(f"{odd}")
    # One bad run among good ones is not the end.
    assert find_checkpoint(SP, "latest") == good
    assert f"passed over: {odd}" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"format_version": 2, "a": ' * 60 + "1" + "}" * 60, "nested too deep"),
        ('{"seed": ' + "9" * 5000 + "}", "cannot be read as JSON"),
        ('{"format_version": 2, "seed": 1, "seed": 2}', "repeated key 'seed'"),
        ('{"format_version": 2, "approach": "glinerev", "seed": NaN}', "seed must be a finite number, got nan"),
        ('{"format_version": 2, "approach": "glinerev", "seed": 1e400}', "seed must be a finite number, got inf"),
        ('{"format_version": 2, "approach": "glinerev"}', "lacks ['base_model', 'config', "),
        ("\ufeff[]", "is no run record"),
        ("", "not whole JSON"),
    ],
)
def test_a_record_that_is_none(run_json, tmp_path, text, message):
    (tmp_path / RUN_FILE).write_text(text, "utf-8")
    found = message_of(lambda: load_checkpoint(SP, tmp_path))
    assert message in found
    assert found.startswith(str(tmp_path / RUN_FILE))


def test_a_run_without_a_validation_cannot_be_tested(trial):
    made = trial(SP, "bi-bert", train={"epochs": 1})
    run = made.start()
    run.release()
    found = message_of(lambda: load_checkpoint(SP, run.path))
    assert "has no validation behind it (run.json lacks ['precision', 'best', 'parameters'])" in found
    assert f"python -m glinerev.train --resume {run.path}" in found


def test_an_unfinished_run_is_loaded_with_a_warning(unfinished, caplog):
    _, path = unfinished
    write_json(path / RUN_FILE, read_json(path / RUN_FILE) | {"status": "running"})
    load_checkpoint(SP, path)
    assert f"{path} is unfinished (status running): its weights and thresholds are those of epoch 1" in caplog.text
    assert "train --resume latest, or name it as it is with --checkpoint" in message_of(
        lambda: find_checkpoint(SP, "latest")
    )


def without(**kinds):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(kinds["start"])}


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: done.append("folder" if S_ISDIR(os.fstat(handle).st_mode) else "file")
    )
    monkeypatch.setattr(
        os, "replace", lambda source, target, replace=os.replace: (done.append("name"), replace(source, target))
    )
    write_json(tmp_path / "a.json", 1)
    assert done == ["file", "name", "folder"]


def first(tensors, start: str) -> str:
    return next(name for name in sorted(tensors) if name.startswith(start))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without(start="optimizer/"), "lacks the optimizer's state of"),
        (lambda t: {n: v for n, v in t.items() if n != first(t, "optimizer/exp_avg/")}, "must have the shapes"),
        (lambda t: t | {first(t, "optimizer/exp_avg_sq/"): torch.zeros(3)}, "must have the shapes"),
        (lambda t: t | {n: v * float("nan") for n, v in t.items() if n == first(t, "optimizer/exp_avg/")}, "no finite"),
        (lambda t: t | {"optimizer/exp_avg/other": torch.zeros(3)}, "holds a state of 'other', which is not trained"),
        (without(start="rng"), "the state of the random numbers is missing or none"),
        (lambda t: t | {"rng": torch.zeros(3, dtype=torch.uint8)}, "the state of the random numbers"),
        (lambda t: t | {"rng": torch.zeros(9)}, "the state of the random numbers"),
        (without(start="model/"), "does not fit the model: missing"),
        (lambda t: t | {n: v * float("nan") for n, v in t.items() if n == first(t, "model/")}, "no finite numbers"),
    ],
)
def test_a_state_that_is_not_whole_is_refused(unfinished, edit, message):
    made, path = unfinished
    (state,) = path.glob("state_*")
    tensors = load_tensors(state / "state.safetensors")
    save_file(edit(tensors), state / "state.safetensors")
    found = message_of(lambda: made.resume(path))
    assert message in found
    assert found.startswith(str(path))


@pytest.mark.slow
def test_a_state_that_was_put_right_is_gone_on_with(unfinished):
    made, path = unfinished
    (state,) = path.glob("state_*")
    tensors = load_tensors(state / "state.safetensors")
    save_file(without(start="rng")(tensors), state / "state.safetensors")
    message_of(lambda: made.resume(path))
    save_file(tensors, state / "state.safetensors")
    assert made.resume(path)[1].record["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ((), [], "state.json: the record must be an object, got []"),
        (("progress",), None, "progress must be an object, got None"),
        (("progress", "step"), -1, "progress.step must be at least 0, got -1"),
        (("progress", "best_score"), "0.5", "progress.best_score must be a number or null, got '0.5'"),
        (
            ("progress", "history"),
            [{}],
            "progress.history[0] lacks ['epoch', 'train_loss', 'train_seconds', 'validation']",
        ),
        (("progress", "epoch"), 7, "the stored state is of epoch 7, batch 0; the run has 2 epochs of 5 batches"),
        (("progress", "batch"), 99, "the stored state is of epoch 1, batch 99"),
        (("provenance",), "here", "provenance must be a list, got 'here'"),
        (("scaler",), [1], "scaler must be an object or null, got [1]"),
    ],
)
def test_odd_fields_of_a_state(unfinished, keys, value, message):
    made, path = unfinished
    (file,) = path.glob("state_*/state.json")
    whole = read_json(file)
    if keys:
        change(file, *keys, value=value)
    else:
        write_json(file, value)
    assert message in message_of(lambda: made.resume(path))
    del whole["progress"]
    write_json(file, whole)
    assert "state.json: lacks ['progress']" in message_of(lambda: made.resume(path))


@pytest.mark.parametrize(
    "settings", ['{"train": {"epochs": 1, "epochs": 2}}', '{"labels": "\\ud800"}', '{"rest_lr": 1e400}', "[" * 99_999]
)
def test_settings_files_are_checked(tmp_path, dataset_path, settings):
    file = tmp_path / "settings.json"
    file.write_text(settings, "utf-8")
    found = message_of(lambda: parse_training(SP, ["--dataset", str(dataset_path), "--config", str(file)]))
    assert found.startswith(str(file))


@pytest.mark.parametrize("dataset", [5, ["tiny", 5], True, {"tiny": 1}])
def test_the_data_set_of_a_settings_file_is_a_text(tmp_path, dataset):
    write_json(tmp_path / "s.json", {"data": {"dataset": dataset}})
    found = message_of(lambda: parse_training(SP, ["--config", str(tmp_path / "s.json")]))
    assert f"data.dataset must be a text or a list of texts, got {dataset!r}" in found


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("created",), 5, "created must be a text, got 5"),
        (("dataset",), "../../../../evil", "dataset must be a name without a path in it"),
        (("dataset",), "a\0", "dataset must be a name without a path in it"),
        (("base_model",), "x", "base_model must be an object, got 'x'"),
        (("scores",), [], "scores must be an object, got []"),
        (("scores", "micro", "f1"), "0.5", "scores.micro.f1 must be a number or null, got '0.5'"),
        (("scores", "micro", "f1"), 7, "scores.micro.f1 must be between 0 and 1, got 7"),
        (("scores", "per_type"), "x", "scores.per_type must be an object, got 'x'"),
        (("training",), 5, "training must be an object or null, got 5"),
        (("training",), {"dataset": {"train": "9"}}, "training.dataset.train must be a whole number, got '9'"),
        (("parameters", "trainable"), "9", "parameters.trainable must be a whole number, got '9'"),
        (("training",), {"provenance": []}, "training.provenance must be an object, got []"),
        (("speed",), None, "speed must be an object, got None"),
        (("seed",), 1.5, "seed must be a whole number or null, got 1.5"),
    ],
)
def test_odd_fields_of_a_result(tmp_path, keys, value, message):
    committed = sorted((PROJECT_ROOT / "results").glob("bc5cdr_glinerev*.json"))[0]
    path = tmp_path / "result.json"
    shutil.copyfile(committed, path)
    assert read_result(path)["dataset"] == "bc5cdr"
    change(path, *keys, value=value)
    assert f"{path}: {message}" in message_of(lambda: read_result(path))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros((3, 4)), r"shape (3, 4), expected (3, sentences, 2 types)"),
        (np.zeros((2, 4, 2)), r"shape (2, 4, 2)"),
        (np.zeros((3, 4, 5)), r"shape (3, 4, 5)"),
        (np.zeros((3, 0, 2)), r"shape (3, 0, 2)"),
        (np.zeros(3), r"shape (3,)"),
        (-np.ones((3, 4, 2)), r"more true positives than"),
        (np.stack([np.ones((4, 2)), np.zeros((4, 2)), np.ones((4, 2))]), r"more true positives than"),
    ],
)
def test_counts_of_another_shape(tmp_path, counts, message):
    path = tmp_path / "r.json"
    np.savez(counts_path(path), types=np.array(["a", "b"]), counts=counts)
    assert message in message_of(lambda: read_counts(path))


# -- the system says no -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size: int):
    """No file of this process may grow beyond a size: as a full disk, but for any user."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def ended(main, capsys, status: int = 2) -> str:
    """The last line of a script that ends with a status."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    printed = capsys.readouterr()
    assert stop.value.code == status, printed.err
    assert "Traceback" not in printed.err
    return printed.err.splitlines()[-1]


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".lock"))]


@pytest.mark.parametrize("size", [20_000, 60_000])
def test_a_training_without_room_fails_in_one_line_and_goes_on_when_there_is(
    trial, dataset_path, gliner_folder, output, capsys, size
):
    whole = trial(SP, "bi-bert", train={"epochs": 2, "batch_size": 8, "seed": 42}).train()[1]
    shutil.move(whole.path, output.parent / "whole")
    arguments = ["--dataset", str(dataset_path), *QUICK, "--epochs", "2", "--batch-size", "8", "--eval-batch-size", "8"]
    arguments += ["--base-model", str(gliner_folder("bi-bert"))]
    with largest_file(size):
        line = ended(partial(glinerev.train.main, arguments), capsys)
    (run,) = (output / "glinerev" / "savings").iterdir()
    assert line.startswith(f"error: {run}/")
    assert (
        "File too large; raise the limit on the size of files (ulimit -f), then go on (a training with --resume" in line
    )
    assert half_written(output) == []
    assert read_json(run / RUN_FILE)["status"] == "failed"
    glinerev.train.main([*arguments, "--resume", "latest"])
    assert read_json(run / RUN_FILE)["status"] == "finished"
    assert (run / WEIGHTS_FILE).read_bytes() == (output.parent / "whole" / WEIGHTS_FILE).read_bytes()


def test_a_run_that_cannot_be_begun_leaves_nothing(dataset_path, gliner_folder, output, capsys):
    arguments = ["--dataset", str(dataset_path), *QUICK, "--base-model", str(gliner_folder("bi-bert"))]
    with largest_file(1_000):
        line = ended(partial(glinerev.train.main, arguments), capsys)
    assert "run.json: File too large; " in line
    assert list((output / "glinerev" / "savings").iterdir()) == []


def test_features_without_room_are_one_line_and_leave_nothing(dataset_path, gliner_folder, output, capsys):
    arguments = ["--dataset", str(dataset_path), *QUICK, "--epochs", "1", "--feature-cache", "disk"]
    arguments += ["--base-model", str(gliner_folder("bi-bert"))]
    with largest_file(30_000):
        line = ended(partial(softprompt_base.train.main, arguments), capsys)
    assert line.startswith(f"error: {output / 'features'}")
    assert "File too large; " in line
    assert half_written(output) == []
    # Those of the small split are whole.
    assert [path.suffix for path in (output / "features").iterdir()] == [".float32"]


@pytest.mark.parametrize("fallocate", [True, False])
def test_features_are_written_the_same_with_and_without_reserving_room(trial, data, output, monkeypatch, fallocate):
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate")
    model = trial(TOKENS, "bi-bert").model()
    stores = [
        FeatureCache(runtime).encode(model, data.test, make_accelerator(runtime), "x").store
        for runtime in (RUNTIME, replace(RUNTIME, feature_cache="disk"))
    ]
    assert torch.equal(stores[0].rows, stores[1].rows)


def zeroed(content: bytes) -> bytes:
    half = len(content) // 2
    return bytes(half) + content[half:]


@pytest.mark.parametrize(
    "spoil",
    [lambda content: b"", lambda content: content[:10], lambda content: content[:-4], zeroed],
    ids=["empty", "a piece", "cut", "half of zeros"],
)
def test_a_feature_file_that_is_not_whole_is_computed_anew(trial, data, output, spoil):
    runtime = replace(RUNTIME, feature_cache="disk")
    model = trial(TOKENS, "bi-bert").model()

    def rows():
        return FeatureCache(runtime).encode(model, data.test, make_accelerator(runtime), "x").store.rows.clone()

    whole = rows()
    (file,) = (output / "features").iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    mine, stale = file.parent / ".mine.tmp", file.parent / f".{'a' * 64}.float32.abcdefgh.tmp"
    mine.touch()
    stale.touch()
    assert torch.equal(rows(), whole)
    assert set(file.parent.iterdir()) == {file, mine}


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.ENOSPC, "make room, then go on (a training with --resume latest)"),
        (errno.EROFS, "another place for output is --output-root DIR"),
        (errno.EACCES, "another place for output is --output-root DIR"),
        (errno.ENOTDIR, "a file is in the way"),
        (errno.ENAMETOOLONG, "use a shorter name"),
        (errno.EIO, ""),
    ],
)
def test_what_the_system_refuses_is_one_line(number, way, capsys):
    def main() -> None:
        raise OSError(number, os.strerror(number), "/place/file")

    line = ended(main, capsys)
    assert line.startswith(f"error: /place/file: {os.strerror(number)}")
    assert way in line


def test_output_into_a_place_that_takes_nothing(dataset_path, gliner_folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    arguments = ["--dataset", str(dataset_path), *QUICK, "--base-model", str(gliner_folder("bi-bert"))]
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none"), tmp_path / ("a" * 300)):
        for main in (glinerev.train.main, zeroshot_baseline.test.main):
            line = ended(partial(main, [*arguments, "--output-root", str(place)]), capsys)
            assert line.startswith(f"error: {place}")


@pytest.mark.slow
def test_paths_of_all_kinds(dataset_path, gliner_folder, tmp_path):
    root = tmp_path / "a %20 b #x y?z=1 öß 日本 a'b\"c"
    base, data = root / "base", root / "tiny"
    shutil.copytree(gliner_folder("bi-bert"), base)
    shutil.copytree(dataset_path, data)
    common_ones = ["--dataset", str(data), *QUICK, "--output-root", str(root)]
    run = softprompt_base.train.main(
        [*common_ones, "--epochs", "1", "--base-model", str(base), "--feature-cache", "disk"]
    )
    assert run.parent == root / "softprompt_base" / "savings"
    run = glinerev.train.main([*common_ones, "--epochs", "1", "--base-model", str(base)])
    assert glinerev.test.main(common_ones).is_file()
    glinerev.export.main(["--checkpoint", str(run), "--output", str(root / "plain"), "--output-root", str(root)])
    assert half_written(root) == [root / "glinerev" / ".test_results.lock"]


def test_a_console_that_is_not_utf_8():
    code = "from common.script import run_script; run_script(lambda: print('\u03b1-actin'))"
    assert python("-c", code, PYTHONIOENCODING="latin-1").stdout == "\\u03b1-actin\n"


def test_the_ends_of_standard_output():
    """A reader that has gone, and a disk that is full: one line each."""

    def ended_with(size: int, stdout) -> tuple[int, str]:
        code = f"from common.script import run_script; run_script(lambda: print('x' * {size}))"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=PROJECT_ROOT, timeout=60)
        return done.returncode, done.stderr

    for size in (10, 10**6):
        reader, writer = os.pipe()
        os.close(reader)
        closed = "error: standard output was closed by what reads it; all files are written\n"
        assert ended_with(size, writer) == (2, closed)
        os.close(writer)
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            status, printed = ended_with(10, full)
        assert (status, len(printed.splitlines())) == (2, 1)
        assert printed.startswith("error: No space left on device; make room")


# -- ends -------------------------------------------------------------------------------------------------------------

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


@pytest.fixture
def heard():
    """Both signals have Python's own handlers, also where the tests run in the background and Ctrl-C is ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
def test_a_signal_is_one_line_and_a_status(number, status, word, capsys):
    before = {kind: signal.getsignal(kind) for kind, _, _ in SIGNALS}

    def at_work() -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    def in_an_import() -> None:
        """Libraries turn an interrupted import into errors of their own."""
        try:
            at_work()
        except KeyboardInterrupt as error:
            raise ImportError("partially initialised module") from error

    for main in (at_work, in_an_import):
        assert ended(main, capsys, status) == word
    assert {kind: signal.getsignal(kind) for kind in before} == before


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
@pytest.mark.parametrize(
    "place",
    [
        "common.training.recorder.best_threshold",
        "common.training.recorder.predict_split",
        "common.training.loop.make_optimizer",
        "common.checkpoint.provenance",
        "common.bases._check_weights",
    ],
)
def test_a_signal_at_any_moment_of_a_training(
    dataset_path, gliner_folder, output, capsys, monkeypatch, number, status, word, place
):
    arguments = ["--dataset", str(dataset_path), *QUICK, "--epochs", "1", "--base-model", str(gliner_folder("bi-bert"))]
    with monkeypatch.context() as patched:
        patched.setattr(place, lambda *_, **__: os.kill(os.getpid(), number))
        assert ended(partial(glinerev.train.main, arguments), capsys, status) == word
    assert half_written(output) == []
    runs = runs_of(SP, None)
    assert [record["status"] for _, record in runs] == ["interrupted"] * ("training" in place)
    if runs:
        assert glinerev.train.main([*arguments, "--resume", "latest"]) == runs[0][0]
        assert runs_of(SP, None)[0][1]["status"] == "finished"
    else:
        # Nothing was begun.
        assert not list(output.rglob("*_2*"))


def test_leftovers_of_killed_runs_go_and_nothing_else_does(unfinished, tmp_path, output):
    made, path = unfinished
    savings = path.parent
    half = [path / ".run.json.abcdefgh.tmp", path / ".trainable.safetensors.a1_b2c3d.tmp", path / ".tmpofP4bS"]
    for file in half:
        file.write_text("{")
    (path / ".state.tmp").mkdir()
    (path / ".state.tmp" / "state.json").touch()
    empty = savings / "tiny_20260101_000000"
    empty.mkdir()
    (savings / ".tiny_20260101_000000.lock").touch()
    old = savings / "tiny_20260101_000000-2"
    old.mkdir()
    os.utime(old, (0, 0))
    gone = savings / ".tiny_20260101_000001.lock"
    gone.touch()
    killed_at_the_end = savings / "tiny_20260101_000003"
    shutil.copytree(path, killed_at_the_end)
    write_json(killed_at_the_end / RUN_FILE, read_json(path / RUN_FILE) | {"status": "finished"})
    mine = [
        savings / "notes.tmp", savings / ".mine.lock", path / ".mine.tmp", path / "notes.txt", savings / "empty",
        savings / "tiny_20260101_000004" / "thesis.tex",
    ]  # fmt: skip
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.mkdir() if file.name == "empty" else file.touch()
    # Just made by another process that has not claimed it yet, and at work in another.
    young, held = savings / "tiny_20260101_000005", savings / "tiny_20260101_000006"
    young.mkdir()
    held.mkdir()
    (held / ".run.json.abcdefgh.tmp").touch()
    with FileLock(savings / ".tiny_20260101_000006.lock"):
        run = made.start()
        run.release()
        assert (held / ".run.json.abcdefgh.tmp").exists()
    for file in (*half, path / ".state.tmp", empty, old, gone, savings / ".tiny_20260101_000000.lock"):
        assert not file.exists(), file
    assert {file.name for file in killed_at_the_end.iterdir()} == {RUN_FILE, WEIGHTS_FILE}
    for file in (*mine, young, path / RUN_FILE, path / WEIGHTS_FILE):
        assert file.exists(), file
    assert list(path.glob("state_*"))
    # As a lock of another user's, it cannot be taken.
    (savings / ".tiny_20260101_000007.lock").mkdir()
    tidy_runs(savings)
    assert not held.exists()


def test_a_run_that_does_not_say_its_data_is_not_resumed(unfinished):
    made, path = unfinished
    record = read_json(path / RUN_FILE)
    del record["dataset"]["sha256"]
    write_json(path / RUN_FILE, record)
    assert "started differently: the data set's content" in message_of(
        lambda: resume_run(SP, made.config, made.data, made.named_base(), str(path))
    )


def test_a_run_that_starts_again_has_no_best_epoch(trial, monkeypatch, output):
    """Its first state could not be stored, though its first epoch's weights were: untrained ones replace these."""
    made = trial(SP, "bi-bert")

    def ends(function, error, begin) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(f"common.training.loop._Loop.{function}", lambda _: (_ for _ in ()).throw(error))
            with pytest.raises(type(error)):
                begin()

    ends("save_state", OSError(errno.ENOSPC, "No space left on device"), made.train)
    assert runs_of(SP, "tiny")[0][1]["best"]["epoch"] == 1
    ends("train_on", KeyboardInterrupt(), lambda: made.resume("latest"))
    assert runs_of(SP, "tiny")[0][1]["status"] == "interrupted"
    assert "no finished run" in message_of(lambda: find_checkpoint(SP, "latest"))
    assert made.resume("latest")[1].record["best"]["epoch"] == 2


def test_a_run_that_was_finished_in_the_meantime_is_not_trained_again(unfinished, monkeypatch):
    """Another process had it between our look and our claim."""
    made, path = unfinished
    claim = Run.claim

    def after_the_other(run, patience=1.0):
        claim(run, patience)
        write_json(run.path / RUN_FILE, read_json(run.path / RUN_FILE) | {"status": "finished"})

    monkeypatch.setattr(Run, "claim", after_the_other)
    assert f"run {path} is finished" in message_of(
        lambda: resume_run(SP, made.config, made.data, made.named_base(), str(path))
    )
    assert half_written(path.parent) == []


# -- starts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bf16", "asked", "longest"), [(300.0, 1 / 300, 0.1), (2.0, 0.5, 1.0), (0.4, 2.5, 1.0)])
def test_the_probe_gives_up_where_bf16_is_hopeless(monkeypatch, bf16, asked, longest):
    """A clock that products alone move: a millisecond for 512 rows in fp32."""
    clock = [0.0]

    def product(left, right):
        clock[0] += 1e-3 * len(left) / 512 * (bf16 if left.dtype == torch.bfloat16 else 1.0)

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(common.device.time, "perf_counter", lambda: clock[0])
    assert common.device.measured_bf16_speedup() == pytest.approx(asked)
    assert clock[0] < longest


@pytest.mark.parametrize("before", [None, "no JSON", "[1]", '{"another": 2.0}'])
def test_the_probe_is_made_once_on_a_machine(monkeypatch, tmp_path, before):
    measured = iter([1.5, 0.5])
    monkeypatch.setattr(common.device, "measured_bf16_speedup", lambda: next(measured))
    monkeypatch.setenv("GLINER_ADAPTATION_CACHE", str(tmp_path))
    if before is not None:
        (tmp_path / "bf16.json").write_text(before, "utf-8")
    ask = common.device.cpu_bf16_speedup.__wrapped__
    assert [ask(), ask()] == [1.5, 1.5]
    monkeypatch.setenv("GLINER_ADAPTATION_CACHE", str(tmp_path / "file.txt" / "below"))
    (tmp_path / "file.txt").touch()
    assert ask() == 0.5, "nothing can be kept there"


def test_processes_that_begin_at_the_same_time_take_one_probe(monkeypatch, tmp_path):
    measured = iter([1.5, 0.5])

    def measure():
        value = next(measured)
        time.sleep(0.1)
        return value

    monkeypatch.setattr(common.device, "measured_bf16_speedup", measure)
    monkeypatch.setenv("GLINER_ADAPTATION_CACHE", str(tmp_path / "new"))
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(common.device.cpu_bf16_speedup.__wrapped__) for _ in range(2)]
    assert [future.result() for future in found] == [1.5, 1.5]


# -- nothing is accepted in silence -----------------------------------------------------------------------------------


def test_words_that_vanish_in_the_tokenizer(trial):
    """Soft hyphens: the tokenizer has nothing for them."""
    made = trial(TOKENS, "bi-bert", train={"epochs": 1, "batch_size": 1})
    vanish = make_sentence(["\u00ad", "\u00ad\u00ad"], [Span(0, 0, "protein")])
    model = made.model()
    (encoded,) = model.encode([vanish])
    assert not encoded.word_index.any()
    assert model.unreachable(encoded) == {"truncation": 0, "touching": 0, "no sub-word": 1}
    alone = made.but(data=replace(made.data, train=[vanish]))
    assert "has no sub-word for any word of the 1 training sentences" in message_of(alone.train)
    # Among others it is counted, and a batch of its own teaches nothing.
    run = made.but(data=replace(made.data, train=[*made.data.train[:4], vanish])).train()[1]
    assert run.record["unreachable_gold"]["train"]["by_reason"]["no sub-word"] == 1
    assert run.record["status"] == "finished"


# -- many bad inputs, many kills --------------------------------------------------------------------------------------

BAD_TEXTS = {
    "empty": "", "null": "null", "list": "[]", "cut": "{", "deep": "[" * 100_000, "digits": '{"a": ' + "9" * 5000 + "}",
    "repeated": '{"a": 1, "a": 2}', "infinity": '{"a": 1e999}', "surrogate": '{"a": "\\ud800"}', "latin": None,
}  # fmt: skip
"""What a JSON file may hold instead; latin: bytes that are no UTF-8."""


def write_bad(path: Path, kind: str) -> None:
    text = BAD_TEXTS[kind]
    path.write_bytes(b'{"a": "\xe9"}' if text is None else text.encode("utf-8"))


def drop(name: str):
    return lambda folder: (folder / name).unlink()


def as_folder(name: str):
    def act(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return act


def bad(name: str, kind: str):
    return lambda folder: write_bad(folder / name, kind)


def garbled(name: str, start: int, size: int):
    def act(folder: Path) -> None:
        whole = bytearray((folder / name).read_bytes())
        whole[start : start + size] = b"\xff" * size
        (folder / name).write_bytes(whole)

    return act


def field(name: str, *keys: str, value):
    return lambda folder: change(folder / name, *keys, value=value)


def tensors_of(name: str, make):
    def act(folder: Path) -> None:
        tensors = load_file(folder / name)
        key = sorted(tensors)[1]
        save_file(make(tensors, key), folder / name)

    return act


CONFIG, WEIGHTS = "gliner_config.json", "model.safetensors"
BAD_TENSORS = [
    lambda t, key: {},
    lambda t, key: {n: v for n, v in t.items() if n != key},
    lambda t, key: t | {"other": torch.zeros(2)},
    lambda t, key: t | {key: torch.zeros(3, 3, 3)},
    lambda t, key: t | {key: torch.full_like(t[key], float("nan"))},
    lambda t, key: t | {key: torch.full_like(t[key], -float("inf"))},
    lambda t, key: t | {key: t[key].int()},
    lambda t, key: t | {key: t[key] > 0},
]
BAD_BASES = [
    *(bad(CONFIG, kind) for kind in BAD_TEXTS),
    *(bad("tokenizer_config.json", kind) for kind in ("empty", "list", "cut", "deep", "digits", "latin")),
    *(bad("tokenizer.json", kind) for kind in ("empty", "null", "list", "cut", "deep", "latin")),
    *(bad(f"labels_tokenizer/{name}", "cut") for name in ("tokenizer_config.json", "tokenizer.json")),
    drop(CONFIG),
    drop(WEIGHTS),
    as_folder(CONFIG),
    as_folder(WEIGHTS),
    *(tensors_of(WEIGHTS, make) for make in BAD_TENSORS),
    garbled(WEIGHTS, 0, 8),
    garbled(WEIGHTS, 8, 40),
    lambda folder: (folder / WEIGHTS).write_bytes(b""),
    lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:999]),
    lambda folder: (folder / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    *(
        field(CONFIG, *keys, value=value)
        for keys, value in [
            (("max_width",), None),
            (("max_len",), "x"),
            (("max_len",), -1),
            (("hidden_size",), 0),
            (("hidden_size",), 10),
            (("hidden_size",), 10**15),
            (("encoder_config",), {}),
            (("encoder_config", "model_type"), "no-such"),
            (("encoder_config", "hidden_size"), 64),
            (("encoder_config", "hidden_size"), "x"),
            (("encoder_config", "num_hidden_layers"), 5),
            (("encoder_config", "num_attention_heads"), 0),
            (("encoder_config", "vocab_size"), 7),
            (("labels_encoder_config", "hidden_size"), -3),
            (("model_name",), 5),
            (("labels_encoder",), {}),
            (("span_mode",), "no-such"),
        ]
    ),
]
BAD_RUNS = [
    *(bad(RUN_FILE, kind) for kind in BAD_TEXTS),
    *(tensors_of(WEIGHTS_FILE, make) for make in BAD_TENSORS),
    drop(RUN_FILE),
    drop(WEIGHTS_FILE),
    as_folder(RUN_FILE),
    as_folder(WEIGHTS_FILE),
    garbled(WEIGHTS_FILE, 0, 9),
    lambda folder: (folder / WEIGHTS_FILE).write_bytes(b""),
]


UNCAUGHT = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, EOFError, ImportError,
    MemoryError, AssertionError,
)  # fmt: skip


class Attempts:
    """Runs entry points in this process: bad input is status 2 and one line that names it, and no traceback."""

    def __init__(self, capsys) -> None:
        self.capsys, self.number, self.failures = capsys, 0, []

    def __call__(self, main, arguments: list[str], bad: object, what: object = "") -> None:
        self.number += 1
        self.capsys.readouterr()
        try:
            run_script(partial(main, arguments))
            self.failures.append(f"{bad} {what}: accepted")
        except SystemExit as stop:
            printed = self.capsys.readouterr().err
            lines = [line for line in printed.splitlines() if line.startswith("error: ")]
            short = len(lines) == 1 and len(lines[0]) <= 900 and "Traceback" not in printed
            if stop.code != 2 or not short or str(bad) not in lines[0]:
                self.failures.append(f"{bad} {what}: status {stop.code}, {printed[-300:]}")
        except UNCAUGHT as error:
            self.failures.append(f"{bad} {what}: {type(error).__name__}: {str(error)[:200]}")

    def check(self, at_least: int) -> None:
        assert not self.failures, "\n".join(self.failures)
        assert self.number >= at_least


@pytest.fixture
def attempt(capsys):
    return Attempts(capsys)


@pytest.mark.slow
def test_bad_bases_runs_and_settings_are_a_line_each(
    attempt, trial, dataset_path, gliner_folder, run_json, tmp_path, output
):
    on_tiny = ["--dataset", str(dataset_path), *QUICK]
    for place, spoil in enumerate(BAD_BASES):
        folder = tmp_path / "bases" / str(place)
        shutil.copytree(gliner_folder("bi-bert"), folder)
        spoil(folder)
        attempt(zeroshot_baseline.test.main, [*on_tiny, "--base-model", str(folder)], folder)
    for place, spoil in enumerate(BAD_RUNS):
        folder = tmp_path / "runs" / str(place)
        shutil.copytree(run_json, folder)
        spoil(folder)
        attempt(glinerev.test.main, [*on_tiny, "--checkpoint", str(folder)], folder)
    for kind in BAD_TEXTS:
        file = tmp_path / f"{kind}.json"
        write_bad(file, kind)
        for main in (glinerev.train.main, glinerev.tune.main):
            attempt(main, [*on_tiny, "--config", str(file)], file)
    for option in ("a" * 300, "/proc/none/x", "\udcff", "~nobody/x", "a/b/c", "."):
        attempt(glinerev.train.main, [*on_tiny, "--base-model", option], "", f"base named {option[:9]!r}")
        attempt(glinerev.test.main, [*on_tiny, "--checkpoint", option], "", f"checkpoint named {option[:9]!r}")
    attempt.check(at_least=114)
    assert half_written(output) == []


BAD_FILES = {
    "empty": b"", "zeros": bytes(40), "latin": b"caf\xe9 O\n", "utf16": "word\tO\n".encode("utf-16"),
    "gzip": b"\x1f\x8b\x08" + bytes(30),
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "deep": b"[" * 100_000,
}  # fmt: skip
"""What no corpus file may hold, whatever its format."""


@pytest.mark.slow
def test_bad_data_sets_corpora_results_and_texts_are_a_line_each(
    attempt, dataset_path, gliner_folder, run_json, tmp_path, output
):
    base = ["--base-model", str(gliner_folder("bi-bert")), *QUICK]
    for name in ("label2id.json", "label2desc.json", "manifest.json", *(span_file(split, "bi") for split in SPLITS)):
        for kind in BAD_TEXTS:
            folder = tmp_path / "datasets" / f"{name}-{kind}"
            shutil.copytree(dataset_path, folder)
            write_bad(folder / name, kind)
            attempt(glinerev.train.main, ["--dataset", str(folder), *base], folder)
            if "_" in name:
                change(folder / "manifest.json", "files", name, "sha256", value=sha256_file(folder / name))
                attempt(glinerev.train.main, ["--dataset", str(folder), *base], folder, "known to the manifest")
    for example in sorted((PROJECT_ROOT / "examples" / "corpora").iterdir()):
        if example.is_file() and example.suffix != ".md":
            for kind, content in BAD_FILES.items():
                source = tmp_path / f"{kind}{example.suffix}"
                source.write_bytes(content)
                options = [
                    "--dataset",
                    "bad",
                    "--source",
                    str(source),
                    "--descriptions",
                    "names",
                    "--tokenizer",
                    base[1],
                ]
                attempt(dataset_generation.generate.main, options, source)
    model = ["--checkpoint", str(run_json), *QUICK[:-1]]
    result_json = run_test(SP, ["--dataset", str(dataset_path), *model])
    for kind in BAD_TEXTS:
        bad_result = tmp_path / "results" / f"{kind}.json"
        bad_result.parent.mkdir(exist_ok=True)
        write_bad(bad_result, kind)
        attempt(common.compare.main, [str(bad_result), str(result_json)], bad_result)
        attempt(common.errors_page.main, [str(bad_result)], bad_result)
        attempt(common.benchmark.__main__.main, ["--show", str(bad_result)], bad_result)
        attempt(optuna_plots.main, [str(bad_result)], bad_result)
    undecodable, not_empty = {"latin", "utf16"}, set(BAD_FILES) - {"empty"}
    # A text or a word may hold any characters, and a file no document.
    for suffix, kinds in {
        ".txt": undecodable,
        ".conll": undecodable,
        ".jsonl": not_empty,
        ".parquet": BAD_FILES,
    }.items():
        for kind in sorted(kinds):
            source = tmp_path / f"text-{kind}{suffix}"
            source.write_bytes(BAD_FILES[kind])
            options = [*model, "--input", str(source), "--output", str(tmp_path / "tagged.jsonl")]
            attempt(common.predict.main, options, source)
    attempt.check(at_least=200)
    assert [path for path in half_written(output) if path.suffix != ".lock"] == []


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process with threads")
def test_a_training_killed_at_random_moments_ends_with_the_same_bytes(dataset_path, gliner_folder, tmp_path):
    """Twenty kills of a process, each at another moment; what is left is resumed until it is killed again."""
    base = str(gliner_folder("bi-bert"))
    arguments = ["--dataset", str(dataset_path), *QUICK, "--epochs", "60", "--patience", "0", "--base-model", base]

    def start(root: str, *more: str) -> multiprocessing.Process:
        command = [*arguments, "--output-root", str(tmp_path / root), *more]
        # A fork spares the imports, in which there is nothing to lose.
        process = multiprocessing.get_context("fork").Process(target=glinerev.train.main, args=(command,))
        process.start()
        return process

    def completed(process: multiprocessing.Process) -> None:
        process.join(200)
        assert process.exitcode == 0

    completed(start("whole"))
    savings, moments, kills = tmp_path / "killed" / "glinerev" / "savings", random.Random(0), 0
    for _ in range(20):
        runs = list(savings.glob("*/" + RUN_FILE))
        process = start("killed", *(["--resume", "latest"] if runs else []))
        before = sum(path.stat().st_mtime_ns for path in runs)
        while process.is_alive() and sum(p.stat().st_mtime_ns for p in savings.glob("*/" + RUN_FILE)) == before:
            time.sleep(0.005)
        # About two epochs of validation, weights, state and record.
        time.sleep(moments.uniform(0, 0.15))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
    (run,) = savings.glob("*/" + RUN_FILE)
    if read_json(run)["status"] != "finished":
        completed(start("killed", "--resume", "latest"))
    assert kills == 20
    (whole,) = (tmp_path / "whole" / "glinerev" / "savings").glob("*/" + RUN_FILE)
    assert run.with_name(WEIGHTS_FILE).read_bytes() == whole.with_name(WEIGHTS_FILE).read_bytes()
    assert {path.name for path in run.parent.iterdir()} == {RUN_FILE, WEIGHTS_FILE}
    for key in ("best", "threshold", "steps", "status"):
        assert read_json(run)[key] == read_json(whole)[key], key


# -- what others will read --------------------------------------------------------------------------------------------


def test_a_results_page_shows_hostile_types_as_they_are():
    """Read as Markdown by an implementation of GitHub's, none of them is a tag, a link or a cell of its own."""
    markdown_it = pytest.importorskip("markdown_it")
    types = ("<img src=x onerror=alert(1)>", "[x](javascript:alert)", "a|b", "*c*\nd")
    gold = [[Span(0, 0, name)] for name in types]
    counts = count_spans(gold, gold, types)
    scores = span_scores(counts).as_dict()
    errors = asdict(error_report(gold, gold, types))
    scored = {"micro_f1": 0.0, "macro_f1": 0.0}
    result = {
        "approach": "x", "variant": {}, "dataset": "d", "base_model": {"name": "<b>"}, "seed": 1, "split": "test",
        "threshold": 0.5, "scores": scores, "intervals": dict.fromkeys(scored, (0.0, 1.0)), "precision": "fp32",
        "speed": {"sentences_per_second": 1.0, "batch_size": 1}, "errors": errors,
        "unreachable_gold": {"lost": 0, "gold": 4, "share": 0.0, "by_reason": {}, "ceiling": scored},
        "token_report": {"micro": {"f1": 0.0}, "macro": {"f1": 0.0}}, "parameters": {"trainable": 1, "total": 2},
    }  # fmt: skip
    tokens = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).parse(render(result))
    inline = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inline} <= {"text", "text_special", "strong_open", "strong_close", "softbreak"}
    text = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    assert {types[0], types[1], "a|b", "*c* d"} <= set(text)
    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(rows) == 1 + 4 + 2 + 1 + 4


def test_a_clock_that_was_set_back_is_said(trial, caplog):
    made = trial(SP, "bi-bert", train={"epochs": 1})
    run = made.start()
    run.update(created="2999-01-01T00:00:00.000000+00:00")
    run.release()
    made.start().release()
    assert f"by this machine's clock {run.path.name} is newer than this run" in caplog.text
