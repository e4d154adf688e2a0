"""What the loop does within an epoch, and around all of it: steps, validations, optimizers, checkpointing, lock and
status.
"""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_training import assert_same_run, trained_digest
from tiny import RUNTIME, SIZES

from common.approach import count_parameters, parameter_count
from common.bases import base_revision
from common.device import make_accelerator, prefetch
from common.errors import InputError, TrainingError
from common.files import read_json
from common.models.features import FeatureCache
from common.training.optimizer import make_optimizer
from common.training.records import RUN_FILE, find_checkpoint
from common.training.run_folder import Run
from full_finetune.spec import SPEC as FT
from glinerev.spec import SPEC as SP

pytestmark = pytest.mark.slow

STEPS_PER_EPOCH = SIZES["train"] // 8
assert STEPS_PER_EPOCH == 5


def steps(run) -> list[int]:
    return [entry["step"] for entry in run.record["history"]]


# -- steps and validations --------------------------------------------------------------------------------------------


def test_validation_every_few_steps_and_at_the_end_of_each_epoch(trial):
    _, run = trial(SP, "bi-bert", train={"epochs": 2, "eval_every": 3, "patience": 0}).train()
    assert steps(run) == [3, 5, 8, 10]
    assert [entry["epoch"] for entry in run.record["history"]] == [1, 1, 2, 2]
    assert [entry["epochs"] for entry in run.record["history"]] == [0.6, 1.0, 1.6, 2.0]
    assert (run.record["steps"], run.record["epochs"]) == (10, 2)


def test_validating_more_often_trains_the_same(trial):
    digests = []
    for eval_every in (None, 2, 100):
        made = trial(SP, "bi-bert", train={"epochs": 2, "eval_every": eval_every, "patience": 0})
        model = made.model()

        def at_the_end(entry, model=model):
            if entry["step"] == 10:
                digests.append(trained_digest(model))

        made.fit(model, made.start(), on_validation=at_the_end)
    assert len(digests) == 3
    assert len(set(digests)) == 1


@pytest.mark.parametrize("accumulation", [1, 2])
def test_max_steps_end_training_and_the_schedule(trial, accumulation):
    limits = {"epochs": 9, "max_steps": 7, "grad_accumulation": accumulation, "patience": 0, "warmup_ratio": 0.0}
    _, run = trial(SP, "bi-bert", train=limits).train()
    per_epoch = -(-STEPS_PER_EPOCH // accumulation)
    assert steps(run) == [*range(per_epoch, 7, per_epoch), 7]
    last = run.record["history"][-1]["learning_rates"]
    # Linear from step 1 of 7 to 0 behind the last one.
    assert all(rate == pytest.approx(peak / 8) for rate, peak in zip(last.values(), peaks(last), strict=True))


def peaks(rates):
    return [1e-3 if name.startswith("prompt") else 5e-4 for name in rates]


def test_patience_counts_validations(trial, scripted):
    scripted(0.5, 0.4, 0.4, 0.4)
    settings = {"epochs": 5, "eval_every": 1, "patience": 2, "patience_steps": 0}
    _, run = trial(SP, "bi-bert", train=settings).train()
    assert steps(run) == [1, 2, 3]
    assert run.record["best"]["epoch"] == 1


@pytest.mark.parametrize("killed_at", [3, 5, 8])
def test_a_run_killed_within_an_epoch_resumes_there(trial, killed_at):
    made = trial(SP, "bi-bert", train={"epochs": 2, "eval_every": 3, "patience": 0})
    whole = made.train()[1]

    run = made.killed(lambda entry: entry["step"] == killed_at)
    assert [path.name for path in run.path.glob("state_*")] == [f"state_{killed_at:08d}"]
    _, resumed = made.resume(run.path)
    assert_same_run(resumed, whole)


# -- optimizers -------------------------------------------------------------------------------------------------------


def test_an_optimizer_that_is_not_installed(trial, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        InputError, match="--optimizer paged_adamw_8bit needs the package bitsandbytes: pip install bits"
    ):
        trial(SP, "bi-bert", train={"optimizer": "paged_adamw_8bit"}).train()


def test_bitsandbytes_optimizers_get_the_groups_by_their_names(monkeypatch):
    made = {}
    classes = {
        name: lambda groups, name=name: made.setdefault(name, groups)
        for name in ("AdamW8bit", "PagedAdamW", "PagedAdamW8bit")
    }
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=SimpleNamespace(**classes)))
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1e-3}]
    for name in ("adamw_8bit", "paged_adamw", "paged_adamw_8bit"):
        assert make_optimizer(name, groups) is groups
    assert list(made) == ["AdamW8bit", "PagedAdamW", "PagedAdamW8bit"]


# -- gradient checkpointing -------------------------------------------------------------------------------------------


def losses_and_calls(trial, **train):
    """Losses of a training with all encoders trained, and how often a text encoder's layer was computed in it."""
    made = trial(FT, "bi-bert", train={"epochs": 1, **train}, base_settings={"dropout": 0.0})
    model, calls = made.model(), []
    layer = model.base.part("text encoder").model.encoder.layer[0].attention
    layer.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    run = made.fit(model, made.start())
    return [entry["train_loss"] for entry in run.record["history"]], sum(calls)


def test_gradient_checkpointing_computes_layers_anew_and_trains_the_same(trial):
    plain, calls = losses_and_calls(trial)
    checkpointed, more = losses_and_calls(trial, gradient_checkpointing=True)
    assert checkpointed == pytest.approx(plain, rel=1e-5)
    # Once more for each of the five steps.
    assert more == calls + STEPS_PER_EPOCH


def test_checkpointed_layers_that_are_frozen_keep_their_dropout_off(trial):
    made = trial(SP, "bi-bert", train={"epochs": 1, "gradient_checkpointing": True})
    model = made.model()
    made.fit(model, made.start())
    model.train()
    encoder = model.base.part("text encoder").model
    assert any(module.training for module in encoder.modules())
    assert not any(m.training for m in encoder.modules() if isinstance(m, torch.nn.Dropout))


# -- lock and status --------------------------------------------------------------------------------------------------


def test_a_run_is_this_processs_until_its_best_weights_are_back(trial, monkeypatch):
    made = trial(SP, "bi-bert", train={"epochs": 1})
    run, seen = made.start(), []
    load = Run.load_weights_into

    def look(self, parameters):
        with pytest.raises(InputError, match="is being trained by another process"):
            Run(run.path, {}).claim()
        seen.append(read_json(run.path / RUN_FILE)["status"])
        load(self, parameters)

    monkeypatch.setattr(Run, "load_weights_into", look)
    made.fit(made.model(), run)
    assert seen == ["running"]
    Run(run.path, {}).claim()


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (MemoryError, "failed"), (TrainingError, "failed")]
)
@pytest.mark.parametrize("when", ["preparing", "training", "finishing"])
def test_whatever_ends_a_training_its_status_is_true(trial, monkeypatch, error, status, when):
    made = trial(SP, "bi-bert", train={"epochs": 1})
    run = made.start()

    def end(*_, **__):
        raise error

    if when == "preparing":
        monkeypatch.setattr(FeatureCache, "encode", end)
    if when == "finishing":
        monkeypatch.setattr(Run, "load_weights_into", end)
    with pytest.raises(error):
        made.fit(made.model(), run, on_validation=end if when == "training" else None)
    assert read_json(run.path / RUN_FILE)["status"] == status
    Run(run.path, {}).claim()
    if status == "interrupted" and when != "preparing":
        # Its best weights are a checkpoint.
        assert find_checkpoint(SP, "latest") == run.path


# -- counts, revisions, features --------------------------------------------------------------------------------------


def test_weights_are_counted_as_what_they_stand_for():
    """A parameter of 4 bits holds two weights in a byte, and its shape beside them."""
    model = torch.nn.Module()
    packed = torch.nn.Parameter(torch.zeros(48, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = SimpleNamespace(shape=torch.Size((8, 12)))
    model.packed = packed
    model.first = torch.nn.Linear(4, 3, bias=False)
    model.tied = torch.nn.Linear(4, 3, bias=False)
    model.tied.weight = model.first.weight
    assert parameter_count(packed) == 96
    assert count_parameters(model) == (12, 96 + 12)


def test_a_revision_is_known_without_loading_weights(trial, monkeypatch):
    made = trial(SP, "bi-bert")
    revision = made.base().revision
    monkeypatch.setattr("gliner.GLiNER.from_pretrained", None)
    assert base_revision(made.config.base_model) == revision
    with pytest.raises(InputError, match="is neither a folder nor a hub id"):
        base_revision("./nowhere")


def feature_file(model, data, output) -> str:
    """Name of the file that a model's features of the test split go to."""
    before = set((output / "features").glob("*.float32"))
    runtime = replace(RUNTIME, feature_cache="disk")
    FeatureCache(runtime).encode(model, data.test, make_accelerator(runtime), "test")
    (new,) = set((output / "features").glob("*.float32")) - before or {None}
    return new and new.name


def test_features_of_another_configuration_or_library_are_others(trial, data, output, monkeypatch):
    model = trial(SP, "bi-bert").model()
    assert feature_file(model, data, output) is not None
    assert feature_file(model, data, output) is None, "they are found again"
    model.base.config.encoder_config.num_attention_heads = 4
    assert feature_file(model, data, output) is not None, "the same weights, read otherwise"
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.0")
    assert feature_file(model, data, output) is not None, "another library"


def test_features_that_are_not_finite_are_refused(trial):
    made = trial(SP, "bi-bert", train={"epochs": 1})
    model = made.model()
    with torch.no_grad():
        model.base.part("text encoder").model.embeddings.LayerNorm.bias.fill_(float("nan"))
    run = made.start()
    with pytest.raises(TrainingError, match=r"output for sentence \d+ of validation is not finite .*--precision fp32"):
        made.fit(model, run)
    assert read_json(run.path / RUN_FILE)["status"] == "failed"


# -- batches ahead of a GPU -------------------------------------------------------------------------------------------


class Carried:
    """A batch that remembers where it has been."""

    def __init__(self, number: int) -> None:
        self.number, self.way = number, ["made"]

    def pin(self):
        self.way.append("pinned")
        return self

    def to(self, device):
        self.way.append(device.type)
        return self


def test_batches_for_a_gpu_are_made_one_ahead_pinned_and_in_order():
    made = []

    def make(number):
        made.append(number)
        return Carried(number)

    loaded = prefetch(make, range(4), torch.device("cuda"))
    first = next(loaded)
    assert first.way == ["made", "pinned", "cuda"]
    rest = list(loaded)
    assert [batch.number for batch in (first, *rest)] == made == [0, 1, 2, 3]
    assert list(prefetch(make, [], torch.device("cuda"))) == []
    assert [batch.way for batch in prefetch(Carried, range(2), torch.device("cpu"))] == [["made", "cpu"]] * 2


def test_an_error_while_a_batch_is_made_is_the_callers():
    def make(number):
        if number == 2:
            raise ValueError("bad batch")
        return Carried(number)

    loaded = prefetch(make, range(4), torch.device("cuda"))
    assert next(loaded).number == 0
    with pytest.raises(ValueError, match="bad batch"):
        list(loaded)
