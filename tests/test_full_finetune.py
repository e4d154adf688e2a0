"""Full fine-tuning: what is trained, and gliner's own trainer beside our loop."""

import hashlib
import logging
from dataclasses import replace

import pytest
import torch
from tiny import LABELS, predictions
from torch.optim.optimizer import register_optimizer_step_pre_hook

from common.errors import InputError, TrainingError
from common.files import read_json
from common.models.base import PARTS
from common.spec import variant_text
from common.training.recorder import Recorder
from common.training.records import RUN_FILE, WEIGHTS_FILE
from full_finetune.gliner_trainer import fit_with_gliner
from full_finetune.spec import SPEC, variant
from full_finetune.train import main


def digest(model) -> str:
    total = hashlib.sha256()
    for _, parameter in model.named_parameters():
        total.update(parameter.detach().numpy().tobytes())
    return total.hexdigest()


def gliner_run(made, model=None):
    """A run by gliner's trainer."""
    model = model or made.model()
    return model, fit_with_gliner(model, made.data, made.config, made.start())


@pytest.fixture(params=["bi-bert", "cross-deberta"])
def by_gliner(request, trial):
    """Makes a trial of gliner's trainer."""
    encoder = request.param.split("-")[0]

    def make(**settings):
        return trial(SPEC, request.param, encoder=encoder, trainer="gliner", **settings)

    return make


def test_a_base_without_a_bilstm_and_with_a_cross_fuser(trial):
    made = trial(SPEC, "bi-bert", base_settings={"num_rnn_layers": 0, "post_fusion_schema": "l2l-l2t-t2t"})
    declared = {path for part in made.model().parts for path in part.modules}
    names = ("cross fuser", "span_rep_layer", "prompt_rep_layer")
    assert declared == {"core.token_rep_layer", *(f"core.{PARTS[name]}" for name in names)}


def test_variants(trial):
    assert variant(trial(SPEC, "bi-bert").config) == {"encoder": "bi"}
    assert variant(trial(SPEC, "cross-bert", encoder="cross").config) == {"encoder": "cross"}
    assert variant_text(variant(trial(SPEC, "bi-bert", trainer="gliner").config)) == "bi, gliner's trainer"


# -- gliner's trainer -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_epochs_are_honoured(by_gliner):
    """Its default of 10,000 steps would train for 2,000 epochs here."""
    made = by_gliner(train={"epochs": 2})
    _, run = gliner_run(made)
    assert [entry["epoch"] for entry in run.record["history"]] == [1, 2]
    assert run.record["steps"] == 2 * 40 / 8
    assert run.record["status"] == "finished"
    assert {path.name for path in run.path.iterdir()} == {RUN_FILE, WEIGHTS_FILE}


@pytest.mark.slow
def test_its_best_epoch_is_restored(by_gliner, monkeypatch):
    scores = iter([0.0, 0.1, 0.5, 0.2])
    after = []

    def validate(recorder):
        after.append(digest(recorder.model))
        value = next(scores)
        return {"macro_f1": value, "micro_f1": value, "seconds": 0.0}

    monkeypatch.setattr(Recorder, "validate", validate)
    made = by_gliner(train={"epochs": 3}, threshold=0.5)
    model, run = gliner_run(made)
    assert len(set(after)) == 4
    assert digest(model) == after[2]
    assert run.record["best"] == {"epoch": 2, "by": "macro_f1", "score": 0.5}
    assert predictions(made.load(run), made.data.test) == predictions(model, made.data.test)


@pytest.mark.slow
def test_its_patience(trial, scripted):
    scripted(0.5, 0.4, 0.3, 0.9)
    settings = {"epochs": 4, "patience": 2, "patience_steps": 0}
    _, run = gliner_run(trial(SPEC, "bi-bert", trainer="gliner", train=settings))
    assert len(run.record["history"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["names", "descriptions"])
def test_every_sentence_is_asked_for_all_types_by_their_texts(by_gliner, labels, monkeypatch):
    """Not for those in the batch, nor for sampled ones; and the texts are those of the evaluation."""
    made = by_gliner(train={"epochs": 1}, labels=labels)
    model = made.model()
    processor = model.base.gliner.data_processor
    asked, positives = [], []
    collate = processor.collate_raw_batch
    create_labels = processor.create_labels

    def spy(batch_list, *args, **kwargs):
        raw = collate(batch_list, *args, **kwargs)
        asked.extend(frozenset(mapping) for mapping in raw["classes_to_id"])
        return raw

    def count(raw):
        tensor = create_labels(raw)
        positives.append(int(tensor.sum()))
        return tensor

    monkeypatch.setattr(processor, "collate_raw_batch", spy)
    monkeypatch.setattr(processor, "create_labels", count)
    gliner_run(made, model)
    assert len(asked) >= 40
    assert set(asked) == {frozenset(LABELS.texts(labels))}
    # Every reachable gold span is a positive of its type.
    reachable = sum(len(item.targets) for item in made.model().encode(made.data.train))
    assert sum(positives) >= reachable > 30


@pytest.mark.slow
def test_both_trainers_reduce_the_loss(trial):
    settings = {"encoder_lr": 3e-3, "others_lr": 3e-3, "train": {"epochs": 4, "patience": 0}}
    losses = {}
    for trainer in ("common", "gliner"):
        made = trial(SPEC, "bi-bert", trainer=trainer, **settings)
        _, run = made.train() if trainer == "common" else gliner_run(made)
        losses[trainer] = [entry["train_loss"] for entry in run.record["history"]]
        assert losses[trainer][-1] < losses[trainer][0] / 2
    # The same loss of the same model, per sentence: they start alike.
    assert losses["gliner"][0] == pytest.approx(losses["common"][0], rel=0.5)


@pytest.mark.slow
def test_its_loss_is_the_mean_over_sentences(trial):
    """With learning rates of nearly 0 and no dropout every epoch's loss is the untrained model's own."""
    settings = {"encoder_lr": 1e-12, "others_lr": 1e-12, "base_settings": {"dropout": 0.0}, "trainer": "gliner"}
    made = trial(SPEC, "bi-deberta", train={"epochs": 2, "batch_size": 12, "grad_accumulation": 2}, **settings)
    # gliner trains with the encoders' dropout, too; and it scores words behind the tokenizer's cut.
    short = [sentence for sentence in made.data.train if len(sentence.words) < 20]
    made = made.but(data=replace(made.data, train=short))
    model = made.model()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        expected = model(model.collate(model.encode(short))).item()
    _, run = gliner_run(made, model)
    assert len(short) % 12
    assert [entry["train_loss"] for entry in run.record["history"]] == pytest.approx([expected] * 2, rel=1e-3)


@pytest.mark.slow
def test_its_loss_that_is_not_finite_stops_it(trial):
    made = trial(SPEC, "bi-bert", trainer="gliner", train={"epochs": 2})
    model = made.model()
    # In training alone: scores that are no numbers would end the validation before it.
    model.core.prompt_rep_layer.register_forward_hook(
        lambda layer, _, out: out * float("nan") if layer.training else out
    )
    with pytest.raises(TrainingError, match="loss is nan at step 1 of gliner's trainer"):
        gliner_run(made, model)


@pytest.mark.slow
def test_its_learning_rates_and_decay(trial):
    """gliner gives one rate to the encoders and one to the rest; both are ours to set."""
    made = trial(SPEC, "bi-bert", trainer="gliner", train={"epochs": 1}, encoder_lr=2e-3, others_lr=7e-4)
    groups = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: groups.append(optimizer.param_groups))
    model, _ = gliner_run(made)
    hook.remove()
    name_of = {id(p): name for name, p in model.named_parameters()}
    for group in groups[-1]:
        for parameter in group["params"]:
            peak = 2e-3 if "token_rep_layer" in name_of[id(parameter)] else 7e-4
            assert group["initial_lr"] == pytest.approx(peak)


@pytest.mark.slow
def test_its_record_has_the_keys_of_ours(trial):
    ours = trial(SPEC, "bi-bert", train={"epochs": 1}).train()[1]
    _, theirs = gliner_run(trial(SPEC, "bi-bert", trainer="gliner", train={"epochs": 1}))
    assert set(theirs.record) == set(ours.record)
    assert theirs.record["parameters"] == ours.record["parameters"]
    assert set(ours.record["history"][0]) - set(theirs.record["history"][0]) == {"learning_rates"}


@pytest.mark.slow
def test_ctrl_c_keeps_its_best_checkpoint(trial, monkeypatch, caplog):
    made = trial(SPEC, "bi-bert", trainer="gliner", train={"epochs": 3, "select_by": "loss"})
    validate, after = Recorder.validate, []

    def stop(recorder):
        if len(after) == 2:  # of the untrained model, of epoch 1
            raise KeyboardInterrupt
        after.append(digest(recorder.model))
        return validate(recorder)

    monkeypatch.setattr(Recorder, "validate", stop)
    run = made.start()
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        fit_with_gliner(made.model(), made.data, made.config, run)
    assert f"interrupted; best checkpoint so far (epoch 1): {run.path}" in caplog.text
    assert read_json(run.path / RUN_FILE)["status"] == "interrupted"
    assert digest(made.load(run)) == after[1] != after[0]


def test_it_cannot_resume(trial, gliner_folder, dataset_path):
    made = trial(SPEC, "bi-bert", trainer="gliner", train={"epochs": 1, "patience": 0})
    run = made.start()
    run.lock.release()
    options = ["--dataset", str(dataset_path), "--base-model", made.config.base_model, "--trainer", "gliner"]
    options += "--epochs 1 --batch-size 8 --seed 1 --precision fp32 --device cpu --patience 0".split()  # noqa: SIM905
    with pytest.raises(InputError, match="gliner's trainer cannot resume; use --trainer common"):
        main([*options, "--eval-batch-size", "8", "--resume", str(run.path)])
