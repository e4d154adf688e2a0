"""The loop: its schedule, its batches, the weights that it keeps, and that a resumed run is an uninterrupted one."""

import hashlib
import logging
import random
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import LABELS, RUNTIME, SIZES, Killed, predictions
from torch.optim.optimizer import register_optimizer_step_pre_hook

import common.training.loop
import full_finetune.model
import full_finetune.spec
import glinerev.model
import glinerev.spec
import injection_bi.model
import injection_bi.spec
import lora.spec
from common.approach import freeze_all_but
from common.config import DataConfig, RuntimeConfig, TrainConfig
from common.data.batching import evaluation_batches, training_batches
from common.data.dataset import load_dataset, make_sentence
from common.data.spans import Span
from common.device import make_accelerator, precision_name, resolve_precision
from common.errors import InputError, TrainingError
from common.evaluation.metrics import count_spans, span_scores
from common.evaluation.predict_split import flat
from common.files import read_json, write_json
from common.models.features import FeatureCache
from common.models.prompts import PromptConfig
from common.models.token_model import TokenConfig
from common.training.optimizer import schedule_factor
from common.training.records import RUN_FILE, WEIGHTS_FILE, find_checkpoint
from common.training.run_folder import load_tensors

pytestmark = pytest.mark.slow

SP, FT, SP_BI, LORA = glinerev.spec.SPEC, full_finetune.spec.SPEC, injection_bi.spec.SPEC, lora.spec.SPEC


def digest(tensors) -> str:
    """A hash of named tensors' bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].detach().numpy().tobytes())
    return total.hexdigest()


def trained_digest(model) -> str:
    return digest({name: p for name, p in model.named_parameters() if p.requires_grad})


def weights_digest(run) -> str:
    return digest(load_tensors(run.path / WEIGHTS_FILE))


# -- schedule and batches ---------------------------------------------------------------------------------------------


def test_schedule_at_points():
    curve = [schedule_factor(step, total=10, warmup=2) for step in range(12)]
    assert curve == pytest.approx([0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0])
    assert schedule_factor(0, total=10, warmup=0) == 1
    assert [schedule_factor(step, total=4, warmup=4) for step in range(5)] == [0, 0.25, 0.5, 0.75, 0]


def test_learning_rates_of_a_run(trial):
    """40 sentences in batches of 8: 5 steps an epoch, 10 in all, 2 of them (20 %) warm-up."""
    seen = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    made = trial(SP, "bi-bert", train={"epochs": 2, "warmup_ratio": 0.2}, prompt_encoder_lr=1.0, downstream_lr=0.5)
    with_hook = made.model()
    run = made.fit(with_hook, made.start())
    hook.remove()
    assert seen == pytest.approx([1 / 2, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9])
    assert run.record["steps"] == 10
    last = [entry["learning_rates"] for entry in run.record["history"]]
    for rates, factor in zip(last, (6 / 9, 1 / 9), strict=True):
        assert rates["prompt encoder"] == rates["prompt encoder, no decay"] == pytest.approx(factor)
        assert rates["downstream"] == pytest.approx(factor / 2)


@given(n=st.integers(1, 300), batch_size=st.integers(1, 9), seed=st.integers(0, 99), epoch=st.integers(1, 5))
def test_every_sentence_once_an_epoch(n, batch_size, seed, epoch):
    lengths = [random.Random(index).randint(1, 60) for index in range(n)]
    batches = training_batches(lengths, batch_size, seed=seed, epoch=epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(n))
    assert all(0 < len(batch) <= batch_size for batch in batches)
    assert batches == training_batches(lengths, batch_size, seed=seed, epoch=epoch)
    evaluation = evaluation_batches(lengths, batch_size)
    assert sorted(index for batch in evaluation for index in batch) == list(range(n))
    in_order = [lengths[index] for batch in evaluation for index in batch]
    assert in_order == sorted(in_order, reverse=True)


def test_batches_change_with_seed_and_epoch_and_with_nothing_else():
    lengths = [random.Random(index).randint(1, 60) for index in range(200)]
    first = training_batches(lengths, 8, seed=1, epoch=1)
    assert first != training_batches(lengths, 8, seed=1, epoch=2)
    assert first != training_batches(lengths, 8, seed=2, epoch=1)
    random.seed(5)
    torch.manual_seed(5)
    assert first == training_batches(lengths, 8, seed=1, epoch=1)


def test_batches_hold_like_lengths_in_random_order():
    lengths = [random.Random(index).randint(1, 100) for index in range(800)]
    batches = training_batches(lengths, 16, seed=0, epoch=1)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.05 * sum(lengths)
    means = [sum(lengths[i] for i in batch) / len(batch) for batch in batches]
    assert means != sorted(means)
    assert abs(torch.corrcoef(torch.tensor([means, list(range(len(means)))]))[0, 1]) < 0.5


# -- which weights a run ends with ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [SP, FT], ids=lambda spec: spec.name)
def test_best_weights_are_restored(trial, scripted, spec):
    scripted(0.1, 0.5, 0.2)
    made = trial(spec, "bi-bert", train={"epochs": 3}, threshold=0.5)
    model, after = made.model(), []
    run = made.fit(model, made.start(), on_validation=lambda entry: after.append(trained_digest(model)))
    assert len(set(after)) == 3
    assert trained_digest(model) == weights_digest(run) == after[1]
    assert run.record["best"] == {"epoch": 2, "by": "macro_f1", "score": 0.5}
    loaded = made.load(run)
    assert trained_digest(loaded) == after[1]
    assert predictions(loaded, made.data.test) == predictions(model, made.data.test)


def test_the_untrained_model_wins_if_no_epoch_is_as_good(trial, scripted, caplog):
    scripted(0.3, 0.2, untrained=0.4)
    made = trial(SP, "bi-bert", train={"epochs": 2}, threshold=0.5)
    model = made.model()
    freeze_all_but(model, model.parts)
    before = trained_digest(model)
    run = made.fit(model, made.start())
    assert run.record["best"] == {"epoch": 0, "by": "macro_f1", "score": 0.4}
    assert run.record["untrained"]["macro_f1"] == 0.4
    assert trained_digest(model) == weights_digest(run) == before
    assert "no epoch was as good as the untrained model" in caplog.text


@pytest.mark.parametrize(("patience", "epochs_run"), [(1, 2), (2, 6), (0, 6)])
def test_early_stopping(trial, scripted, patience, epochs_run):
    scripted(0.5, 0.4, 0.6, 0.6, 0.7, 0.2)
    made = trial(SP, "bi-bert", train={"epochs": 6, "patience": patience, "patience_steps": 0}, head=False)
    run = made.train()[1]
    assert len(run.record["history"]) == epochs_run
    assert run.record["best"]["epoch"] == (1 if patience == 1 else 5)
    assert run.record["status"] == "finished"


def test_a_plateau_of_equal_scores_ends_by_patience(trial, scripted):
    scripted(0.5, 0.5, 0.5, 0.5)
    run = trial(SP, "bi-bert", train={"epochs": 4, "patience": 2, "patience_steps": 0}, head=False).train()[1]
    assert (len(run.record["history"]), run.record["best"]["epoch"]) == (3, 3)


@pytest.mark.parametrize(("patience_steps", "epochs_run"), [(10, 3), (11, 4), (15, 4), (16, 5)])
def test_patience_counts_steps_too(trial, scripted, patience_steps, epochs_run):
    """Five steps an epoch; the first epoch is the best."""
    scripted(0.5, 0.4, 0.4, 0.4, 0.4)
    settings = {"epochs": 5, "patience": 1, "patience_steps": patience_steps}
    run = trial(SP, "bi-bert", train=settings, head=False).train()[1]
    assert len(run.record["history"]) == epochs_run


def test_a_part_that_is_unfrozen_later_is_frozen_until_then(trial):
    """As long as the head waits, the run is bit by bit the one without it; then the head has a schedule of its own."""
    train = {"epochs": 4, "warmup_ratio": 0.2, "patience": 0}
    made = trial(SP, "bi-bert", train=train, prompt_encoder_lr=1e-2, downstream_lr=1.0, unfreeze_head_after=2)
    alone = trial(SP, "bi-bert", train=train, prompt_encoder_lr=1e-2, head=False)

    def after_epochs(made):
        model, found = made.model(), []

        def note(_entry):
            found.append({name: p.detach().clone() for name, p in model.named_parameters()})

        return found, made.fit(model, made.start(), on_validation=note)

    seen = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append({group["name"]: group["lr"] for group in optimizer.param_groups})
    )
    (first, second, third, _), run = after_epochs(made)
    hook.remove()
    theirs = after_epochs(alone)[0]
    for ours, other in zip((first, second), theirs, strict=False):
        assert all(torch.equal(ours[name], other[name]) for name in other)
    head = [name for name in third if name.startswith("core.span_rep_layer")]
    assert any(not torch.equal(third[name], second[name]) for name in head)
    # 20 steps, 4 of them warm-up; of the head's 10, 2.
    assert [rates["downstream"] for rates in seen[:10]] == [0] * 10
    expected = [1 / 2, 1, *(place / 9 for place in range(8, 0, -1))]
    assert [rates["downstream"] for rates in seen[10:]] == pytest.approx(expected)
    assert [rates["prompt encoder"] for rates in seen[:4]] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    whole = trial(SP, "bi-bert", train={"epochs": 1}).train()[1].record["parameters"]
    assert run.record["parameters"]["trainable"] == whole["trainable"]


def test_a_part_that_waits_needs_no_warm_up(trial):
    made = trial(SP, "bi-bert", train={"warmup_ratio": 0.0}, downstream_lr=1.0, unfreeze_head_after=1)
    rates = [entry["learning_rates"]["downstream"] for entry in made.train()[1].record["history"]]
    assert rates == pytest.approx([0, 1 / 6])


@pytest.mark.parametrize("max_steps", [1, 5])
def test_steps_that_end_before_a_part_is_unfrozen_are_refused(trial, max_steps):
    """The whole training is frozen for the part, to the last step too."""
    made = trial(SP, "bi-bert", train={"epochs": 2, "batch_size": 8, "max_steps": max_steps}, unfreeze_head_after=1)
    with pytest.raises(InputError, match=f"max_steps {max_steps}: downstream would never be trained, .* for 5 steps"):
        made.train()


def test_patience_does_not_count_while_a_part_waits(trial, scripted):
    scripted(0.5, 0.4, 0.3, 0.3, 0.3, 0.3)
    train = {"epochs": 6, "patience": 2, "patience_steps": 10}
    run = trial(SP, "bi-bert", train=train, unfreeze_head_after=3).train()[1]
    assert len(run.record["history"]) == 5
    assert run.record["best"]["epoch"] == 1


@pytest.mark.parametrize(("select_by", "best", "score"), [("macro_f1", 2, 0.5), ("micro_f1", 1, 0.7), ("loss", 3, 1.5)])
def test_select_by(trial, scripted, select_by, best, score):
    scripted(macro_f1=[0.1, 0.5, 0.3], micro_f1=[0.7, 0.2, 0.6], loss=[3.0, 2.0, 1.5])
    run = trial(SP, "bi-bert", train={"epochs": 3, "select_by": select_by}).train()[1]
    assert run.record["best"] == {"epoch": best, "by": select_by, "score": score}


def test_validation_scores_are_those_of_the_predictions(trial):
    made = trial(FT, "bi-bert", train={"epochs": 1, "select_by": "loss"}, threshold=0.3)
    model, run = made.train()
    validation = run.record["history"][0]["validation"]
    gold = [sentence.spans for sentence in made.data.validation]
    scores = span_scores(count_spans(gold, flat(predictions(model, made.data.validation)), LABELS.names))
    assert validation["macro_f1"] == scores.macro.f1
    assert validation["micro_f1"] == scores.micro.f1
    with torch.no_grad():
        losses = [model(model.collate([item])).item() for item in model.encode(made.data.validation)]
    assert validation["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert run.record["best"]["score"] == validation["loss"]


def test_the_test_split_is_not_touched(trial):
    made = trial(SP, "bi-bert", train={"epochs": 1})
    whole = made.train()[1]
    without = made.but(data=replace(made.data, test=[])).train()[1]
    assert weights_digest(without) == weights_digest(whole)


def test_entity_free_sentences_are_trained_on(trial):
    made = trial(SP, "bi-bert", train={"epochs": 1, "batch_size": 1})
    model, seen = made.model(), Counter()
    model.register_forward_pre_hook(
        lambda module, arguments: (
            seen.update(item.sentence for item in arguments[0].encoded) if module.training else None
        )
    )
    made.fit(model, made.start())
    assert seen == Counter(made.data.train)
    assert seen.total() == SIZES["train"]
    assert any(not sentence.spans for sentence in seen)


def test_training_learns(trial):
    """A frozen random encoder tells words apart, so a trained head finds entities."""
    settings = {"epochs": 25, "batch_size": 4, "patience": 0}
    made = trial(SP, "bi-bert", train=settings, downstream_lr=1e-2, prompt_encoder_lr=1e-2)
    _, run = made.train()
    losses = [entry["train_loss"] for entry in run.record["history"]]
    assert losses[-1] < losses[0] / 4
    assert run.record["best"]["score"] > 0.15


@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_a_long_epoch_without_a_bar_says_where_it_is(trial, seconds, monkeypatch, caplog):
    monkeypatch.setattr("common.training.loop.LOG_EVERY", seconds)
    with caplog.at_level("INFO"):
        trial(SP, "bi-bert", train={"epochs": 1}).train()
    said = re.findall(r"epoch 1: step (\d) of 5, loss \d+\.\d{4}", caplog.text)
    assert said == (["1", "2", "3", "4", "5"] if seconds == 0 else [])


def test_bars_are_drawn_where_they_can_be_seen(monkeypatch):
    shown = RuntimeConfig(), RuntimeConfig(progress=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert [runtime.bars for runtime in shown] == [False, False]
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    assert [runtime.bars for runtime in shown] == [True, False]
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert [runtime.bars for runtime in shown] == [True, False]


# -- determinism and resuming -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "base"), [(SP, "bi-deberta"), (FT, "cross-bert")], ids=["cached", "not cached"])
def test_equal_seeds_give_equal_runs(trial, spec, base):
    made = trial(spec, base, train={"epochs": 1}, **({"encoder": "cross"} if spec is FT else {}))
    first, second, other = made.train()[1], made.train()[1], made.but(seed=2).train()[1]
    assert first.path != second.path
    assert (first.path / WEIGHTS_FILE).read_bytes() == (second.path / WEIGHTS_FILE).read_bytes()
    assert weights_digest(other) != weights_digest(first)


def kill_after(epoch: int, error: type[BaseException] = Killed):
    def on_epoch(entry: dict) -> None:
        if entry["epoch"] == epoch:
            raise error

    return on_epoch


def figures(run) -> list[tuple]:
    """All of a history that does not depend on the clock."""
    return [
        (
            entry["epoch"],
            entry["train_loss"],
            entry["learning_rates"],
            {k: v for k, v in entry["validation"].items() if k != "seconds"},
        )
        for entry in run.record["history"]
    ]


def assert_same_run(resumed, whole) -> None:
    assert (resumed.path / WEIGHTS_FILE).read_bytes() == (whole.path / WEIGHTS_FILE).read_bytes()
    assert figures(resumed) == figures(whole)
    for key in ("best", "steps", "parameters", "status", "threshold", "type_thresholds", "unreachable_gold"):
        assert resumed.record[key] == whole.record[key], key
    assert {path.name for path in resumed.path.iterdir()} == {path.name for path in whole.path.iterdir()}


def killed_run(made, on_validation=None, in_step=None):
    """The folder of a run whose process died in on_epoch or in a step."""
    model, run = made.model(), made.start()
    if in_step is not None:
        steps = []

        def count(module, _arguments) -> None:
            steps.append(module.training)
            if sum(steps) == in_step:
                raise Killed

        model.register_forward_pre_hook(count)
    with pytest.raises(Killed):
        made.fit(model, run, on_validation=on_validation)
    assert read_json(run.path / RUN_FILE)["status"] == "failed"
    # What a killed process leaves: nobody was there to change the status.
    run.update(status="running")
    return run.path


RESUMABLE = [
    (SP, "bi-bert", {}),
    (SP, "bi-deberta", {"rest_lr": 1e-4}),
    (FT, "cross-bert", {"encoder": "cross"}),
    (LORA, "bi-bert", {"method": "dora", "dropout": 0.2}),
    (SP_BI, "bi-bert", {"prompts": PromptConfig("conv1d", 4), "token": TokenConfig(scheme="bio")}),
]


@pytest.mark.parametrize(
    ("spec", "base", "settings"), RESUMABLE, ids=["cached", "all trained", "cross", "adapters", "token family"]
)
def test_a_resumed_run_is_an_uninterrupted_one(trial, spec, base, settings):
    made = trial(spec, base, train={"epochs": 3}, **settings)
    whole = made.train()[1]
    path = killed_run(made, on_validation=kill_after(1))
    model, resumed = made.resume(path)
    assert resumed.path == path
    assert_same_run(resumed, whole)
    assert trained_digest(model) == weights_digest(whole)


@pytest.mark.parametrize("epoch", [1, 2, 3], ids=["frozen", "about to be unfrozen", "unfrozen"])
def test_a_run_with_a_part_that_waits_resumes(trial, epoch):
    made = trial(SP, "bi-bert", train={"epochs": 4}, unfreeze_head_after=2, prompt_layers=2)
    whole = made.train()[1]
    assert_same_run(made.resume(killed_run(made, on_validation=kill_after(epoch)))[1], whole)


@pytest.mark.parametrize("step", [3, 8], ids=["in the first epoch", "in the second epoch"])
def test_a_run_killed_within_an_epoch_repeats_it(trial, step):
    made = trial(SP, "bi-bert", train={"epochs": 3})
    whole = made.train()[1]
    assert_same_run(made.resume(killed_run(made, in_step=step))[1], whole)


def test_a_resumed_run_names_the_machines_that_its_epochs_ran_on(trial, monkeypatch):
    made = trial(SP, "bi-bert", train={"epochs": 2})
    unfinished, one_epoch, same = killed_run(made, in_step=3), *(killed_run(made, kill_after(1)) for _ in range(2))
    first = read_json(one_epoch / RUN_FILE)["provenance"]
    assert made.resume(same)[1].record["earlier_provenance"] == []
    second = first | {"machine": {"gpu": "H100", "threads": 64}}
    monkeypatch.setattr(common.training.loop, "provenance", lambda: second)
    for path, earlier in ((unfinished, []), (one_epoch, [first])):
        made.resume(path)
        record = read_json(path / RUN_FILE)
        assert (record["provenance"], record["earlier_provenance"]) == (second, earlier)


def test_a_run_needs_no_record_to_train(trial, tmp_path):
    """The demo bases are trained that way."""
    made = trial(SP, "bi-bert", train={"epochs": 2})
    run = made.fit(made.model(), common.training.run_folder.Run(tmp_path, {}))
    assert figures(run) == figures(made.train()[1])


def test_a_run_can_be_killed_again_and_again(trial):
    made = trial(SP, "bi-bert", train={"epochs": 4, "patience": 0})
    whole = made.train()[1]
    path = killed_run(made, on_validation=kill_after(1))
    for epoch in (2, 3):
        with pytest.raises(Killed):
            made.fit(
                made.model(),
                common.checkpoint.resume_run(SP, made.config, made.data, made.base(), str(path)),
                on_validation=kill_after(epoch),
            )
        assert [p.name for p in path.glob("state_*")] == [f"state_{5 * epoch:08d}"]
    assert_same_run(made.resume(path)[1], whole)


def test_a_run_resumes_in_its_precision(trial, monkeypatch):
    """On another CPU, ``auto`` may mean another one."""
    made = trial(SP, "bi-bert", runtime=replace(RUNTIME, precision="auto"))
    monkeypatch.setattr("common.device.cpu_bf16_speedup", lambda: 0.5)
    whole = made.train()[1]
    path = killed_run(made, on_validation=kill_after(1))
    monkeypatch.setattr("common.device.cpu_bf16_speedup", lambda: 2.0)
    resumed = made.resume(path)[1]
    assert resumed.record["precision"] == "fp32"
    assert_same_run(resumed, whole)


def test_a_run_resumes_with_as_many_processes(trial):
    made = trial(SP, "bi-bert")
    path = killed_run(made, on_validation=kill_after(1))
    write_json(path / RUN_FILE, read_json(path / RUN_FILE) | {"processes": 2})
    with pytest.raises(InputError, match=r"was started differently: processes: 2 != 1$"):
        made.resume(path)
    write_json(path / RUN_FILE, read_json(path / RUN_FILE) | {"processes": 1})
    assert made.resume(path)[1].record["status"] == "finished"


def test_patience_goes_on_after_a_resume(trial, scripted):
    made = trial(SP, "bi-bert", train={"epochs": 9, "patience": 2, "patience_steps": 0})
    scripted(0.5, 0.4, 0.3)
    path = killed_run(made, on_validation=kill_after(1))
    _, run = made.resume(path)
    assert [entry["validation"]["macro_f1"] for entry in run.record["history"]] == [0.5, 0.4, 0.3]
    assert run.record["best"] == {"epoch": 1, "by": "macro_f1", "score": 0.5}


def test_latest_is_the_newest_unfinished_run(trial):
    made = trial(SP, "bi-bert", train={"epochs": 2})
    with pytest.raises(InputError, match="no unfinished run of glinerev on tiny"):
        made.resume("latest")
    first = killed_run(made, on_validation=kill_after(1))
    second = killed_run(made, on_validation=kill_after(1))
    made.train()
    assert made.resume("latest")[1].path == second
    assert made.resume("latest")[1].path == first


def test_resuming_otherwise_is_an_error_that_names_it(trial, dataset_path, tmp_path, gliner_folder):
    made = trial(SP, "bi-bert", train={"epochs": 2})
    path = killed_run(made, on_validation=kill_after(1))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    with pytest.raises(InputError, match=r"started differently: train\.epochs: 2 != 3; train\.seed: 1 != 9"):
        made.but(epochs=3, seed=9).resume(path)
    with pytest.raises(InputError, match=r"prompt_form: \"residual\" != \"post_norm\""):
        trial(SP, "bi-bert", train={"epochs": 2}, prompt_form="post_norm").resume(path)
    with pytest.raises(InputError, match="started differently: the data set's content"):
        made.but(data=replace(made.data, sha256="0" * 64)).resume(path)
    with pytest.raises(InputError, match="started differently: the base model's weights"):
        trial(SP, "bi-deberta", train={"epochs": 2}).resume(path)
    with pytest.raises(InputError, match="is a run of 'glinerev', not of 'full_finetune'"):
        trial(FT, "bi-bert", train={"epochs": 2}).resume(path)
    with pytest.raises(InputError, match="no such run folder"):
        made.resume(tmp_path / "nowhere")

    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    # Progress bars are no part of a run.
    quiet = replace(made.config.runtime, progress=not made.config.runtime.progress)
    run = trial(SP, "bi-bert", train={"epochs": 2}, runtime=quiet).resume(path)[1]
    assert run.record["status"] == "finished"
    with pytest.raises(InputError, match=f"run {path} is finished"):
        made.resume(path)


def test_data_and_base_that_moved_are_the_same_run(trial, dataset_path, tmp_path):
    """A run is of contents, not of places."""
    made = trial(SP, "bi-bert", train={"epochs": 2})
    whole = made.train()[1]
    path = killed_run(made, on_validation=kill_after(1))
    shutil.copytree(dataset_path, tmp_path / "moved" / "tiny")
    shutil.copytree(made.base_folder(), tmp_path / "moved" / "base")
    moved = made.but()
    moved.config = replace(
        made.config, data=DataConfig(str(tmp_path / "moved" / "tiny")), base_model=str(tmp_path / "moved" / "base")
    )
    moved.data = load_dataset(moved.config.data.dataset[0])
    assert_same_run(moved.resume(path)[1], whole)


def test_a_changed_file_changes_the_data_sets_hash(dataset_path, tmp_path):
    copy = tmp_path / "tiny"
    copy.mkdir()
    for file in dataset_path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "manifest.json").unlink()
    assert load_dataset(str(copy)).sha256 == load_dataset(str(dataset_path)).sha256
    records = read_json(copy / "dataset_span_bi.json")
    write_json(copy / "dataset_span_bi.json", [*records[:-1], {"tokenized_text": ["other"], "ner": []}])
    assert load_dataset(str(copy)).sha256 != load_dataset(str(dataset_path)).sha256


# -- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [16, 21], ids=["even", "uneven"])
def test_accumulated_batches_equal_one_large_batch(trial, n):
    def run(**train):
        made = trial(
            SP, "bi-bert", train={"epochs": 2, **train}, base_settings={"dropout": 0.0}, word_dropout=0.0,
            prompt_encoder_lr=1e-3, downstream_lr=1e-3,
        )  # fmt: skip
        return made.but(data=replace(made.data, train=made.data.train[2 : n + 2])).train()[1]

    large, accumulated = run(batch_size=n), run(batch_size=8, grad_accumulation=(n + 7) // 8)
    assert large.record["steps"] == accumulated.record["steps"] == 2
    for mine, theirs in zip(accumulated.record["history"], large.record["history"], strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
    expected = load_tensors(large.path / WEIGHTS_FILE)
    for name, tensor in load_tensors(accumulated.path / WEIGHTS_FILE).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def test_the_last_group_of_batches_may_be_short(trial):
    """5 batches of 8 in groups of 2: 3 steps an epoch, and none is lost in the next."""
    run = trial(SP, "bi-bert", train={"epochs": 2, "grad_accumulation": 2}).train()[1]
    assert run.record["steps"] == 6


@pytest.mark.parametrize(("max_steps", "epochs"), [(2, 2 / 5), (7, 7 / 5)])
def test_the_pace_of_a_training_that_ends_within_an_epoch(trial, max_steps, epochs):
    record = trial(SP, "bi-bert", train={"max_steps": max_steps}).train()[1].record
    assert record["seconds_per_epoch"] == pytest.approx(record["train_seconds"] / epochs)


@pytest.mark.parametrize("limit", [1e-3, 1e9])
def test_all_gradients_are_clipped_together(trial, limit):
    norms = []

    def measure(optimizer, *_):
        gradients = [
            p.grad.flatten() for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        norms.append(torch.cat(gradients).norm().item())

    hook = register_optimizer_step_pre_hook(measure)
    trial(SP, "bi-bert", train={"epochs": 1, "max_grad_norm": limit}).train()
    hook.remove()
    if limit < 1:
        assert norms == pytest.approx([limit] * 5, rel=1e-3)
    else:
        assert min(norms) > 1


def test_weight_decay_shrinks_weights_and_spares_biases(trial):
    """With learning rates of nearly 0 nothing but decay could be seen; here decay is so large that it is all that
    is.
    """
    made = trial(SP, "bi-bert", train={"epochs": 1, "weight_decay": 1000.0}, prompt_encoder_lr=1e-5, downstream_lr=1e-5)
    before = dict(made.model().named_parameters())
    model, _ = made.train()
    after = dict(model.named_parameters())
    weight, bias = "core.prompt_rep_layer.0.weight", "core.prompt_rep_layer.0.bias"
    assert (after[weight].norm() / before[weight].norm()).item() == pytest.approx((1 - 0.01) ** 3, abs=0.02)
    assert torch.allclose(after[bias], before[bias], atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_names_the_sentences(trial, value):
    made = trial(SP, "bi-bert", train={"epochs": 2})
    model, run, batches = made.model(), made.start(), []

    def poison(module, arguments, loss):
        if not module.training:
            return None
        batches.append(arguments[0])
        return loss * value if len(batches) == 3 else None

    model.register_forward_hook(poison)
    with pytest.raises(TrainingError) as caught:
        made.fit(model, run)
    message = str(caught.value)
    assert message.startswith(f"loss is {value} at step 3 in a batch of 8 training sentences (")
    assert "lower the learning rate or use --precision fp32" in message
    for item in list(batches[2].encoded)[:4]:
        number = [index for index, sentence in enumerate(made.data.train) if sentence == item.sentence]
        assert any(f"{index}: {' '.join(item.sentence.words[:8])}" in message for index in number)
    assert len(batches) == 3
    assert read_json(run.path / RUN_FILE)["status"] == "failed"
    with pytest.raises(InputError, match="no finished run"):
        find_checkpoint(SP, "latest", "tiny")


@pytest.mark.parametrize("epoch", [1, 2])
def test_ctrl_c_keeps_the_best_checkpoint_and_says_where(trial, scripted, caplog, epoch):
    made = trial(SP, "bi-bert", train={"epochs": 3})
    scripted(0.5, 0.4, 0.6)
    model, run, after = made.model(), made.start(), []

    def stop(entry: dict) -> None:
        after.append(trained_digest(model))
        kill_after(epoch, KeyboardInterrupt)(entry)

    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        made.fit(model, run, on_validation=stop)
    assert f"interrupted; best checkpoint so far (epoch 1): {run.path}" in caplog.text
    assert read_json(run.path / RUN_FILE)["status"] == "interrupted"
    assert find_checkpoint(SP, "latest", "tiny") == run.path
    assert trained_digest(made.load(run)) == after[0]
    assert len(made.resume("latest")[1].record["history"]) == 3


def test_ctrl_c_in_the_first_epoch_leaves_no_checkpoint(trial, caplog):
    made = trial(SP, "bi-bert", train={"epochs": 3})
    model, run = made.model(), made.start()

    def stop(*_):
        if model.training:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        made.fit(model, run)
    assert "no checkpoint" in caplog.text
    with pytest.raises(InputError, match="no finished run of glinerev on tiny"):
        find_checkpoint(SP, "latest", "tiny")
    with pytest.raises(InputError, match="has no validation behind it"):
        made.load(run)


def test_losses_and_scores_go_to_tensorboard(trial):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trial(SP, "bi-bert", train={"epochs": 2, "track": ("tensorboard",)}).train()[1]
    events = EventAccumulator(str(run.path / "glinerev"))
    events.Reload()
    history = run.record["history"]
    for tag, values in (
        ("loss/train", [entry["train_loss"] for entry in history]),
        ("validation/micro_f1", [entry["validation"]["micro_f1"] for entry in history]),
    ):
        found = events.Scalars(tag)
        assert [event.step for event in found] == [entry["step"] for entry in history]
        assert [event.value for event in found] == pytest.approx(values, rel=1e-6)


def test_a_tracker_that_is_not_installed(trial, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--track wandb needs the package wandb: pip install wandb"):
        trial(SP, "bi-bert", train={"track": ("wandb",)}).train()
    # The latest run to resume is one that had begun.
    assert not list(SP.savings.iterdir())


# -- device and precision ---------------------------------------------------------------------------------------------


def test_bf16(trial):
    made = trial(SP, "bi-bert", train={"epochs": 1}, runtime=replace(RUNTIME, precision="bf16"))
    model, run = made.train()
    assert run.record["precision"] == "bf16"
    exact = trial(SP, "bi-bert", train={"epochs": 1}).train()[1]
    assert run.record["history"][0]["train_loss"] == pytest.approx(exact.record["history"][0]["train_loss"], rel=0.05)
    assert run.record["history"][0]["train_loss"] != exact.record["history"][0]["train_loss"]
    assert {tensor.dtype for tensor in load_tensors(run.path / WEIGHTS_FILE).values()} == {torch.float32}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_auto_precision_on_a_cpu_follows_the_probe(monkeypatch):
    for speedup, precision in ((0.4, "fp32"), (1.19, "fp32"), (1.2, "bf16")):
        monkeypatch.setattr("common.device.cpu_bf16_speedup", lambda value=speedup: value)
        assert resolve_precision("auto", "cpu") == precision
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        resolve_precision("fp16", "cpu")


def test_several_precisions_in_one_process():
    names = [precision_name(make_accelerator(replace(RUNTIME, precision=p))) for p in ("bf16", "fp32", "bf16")]
    assert names == ["bf16", "fp32", "bf16"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there():
    with pytest.raises(InputError, match="device cuda: no GPU of this kind is available"):
        make_accelerator(replace(RUNTIME, device="cuda"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"grad_accumulation": 0}, "grad_accumulation must be at least 1, got 0"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0, got nan"),
        ({"max_grad_norm": 0}, "max_grad_norm must be positive, got 0"),
        ({"warmup_ratio": 1.1}, "warmup_ratio must be between 0 and 1, got 1.1"),
    ],
)
def test_settings_out_of_range(values, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**values)


def test_features_are_computed_once(trial, monkeypatch):
    made = trial(SP, "bi-bert", train={"epochs": 3})
    model, texts = made.model(), []
    encode_text = model.core.token_rep_layer.encode_text
    monkeypatch.setattr(
        model.core.token_rep_layer, "encode_text", lambda ids, mask: texts.append(len(ids)) or encode_text(ids, mask)
    )
    made.fit(model, made.start())
    assert sum(texts) == SIZES["train"] + SIZES["validation"]


def test_one_sentence_and_one_word_are_enough(trial):
    made = trial(SP, "bi-bert", train={"epochs": 1})
    tiny = [make_sentence(["fever"], [Span(0, 0, "disease")])]
    run = made.but(data=replace(made.data, train=tiny, validation=tiny)).train()[1]
    assert run.record["steps"] == 1
    split = FeatureCache(RUNTIME).encode(made.model(), tiny, make_accelerator(RUNTIME), "x")
    assert split.lengths == [len(split.encoded[0].input_ids)]
