"""What every approach must keep, whichever it is. A new approach is one more row (or one a variant) of ``ROWS``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tiny import LABELS, generated_split, give_answers, predictions, set_threshold, spans_of

import full_finetune.model
import full_finetune.spec
import glinerev.model
import glinerev.spec
import injection_bi.model
import injection_bi.spec
import injection_cross.model
import injection_cross.spec
import ldsa.model
import ldsa.spec
import lora.model
import lora.spec
import nerllama.model
import nerllama.spec
import softprompt_base.model
import softprompt_base.spec
import vaner.model
import vaner.spec
import zeroshot_baseline.config
import zeroshot_baseline.model
from common.approach import Approach, TrainedPart, count_parameters, declared_parameters, freeze_all_but
from common.data.dataset import make_sentence
from common.errors import InputError
from common.models.config import LoraConfig
from common.models.prompts import PromptConfig
from common.models.token_model import FocalConfig, TokenConfig
from common.training.optimizer import optimizer_groups
from common.training.records import WEIGHTS_FILE
from common.training.run_folder import load_tensors

POOLERS = r"\.pooler\."
"""BERT's pooler takes no part in a forward pass that reads its hidden states."""


@dataclass(frozen=True)
class Row:
    """One variant of an approach."""

    spec: Any
    base: str
    """Name of the tiny base."""
    trains: dict[str, tuple[str, float]]
    """For each part what its parameters' names match, the first part first, and its learning rate."""
    settings: dict[str, Any] = field(default_factory=dict)
    idle: str = "$^"
    """Declared parameters that no gradient ever reaches."""
    no_decay: tuple[str, ...] = ()
    """Parts without weight decay."""
    generates: bool = False
    """Whether predictions are made from text that the model generates. A tiny one says nothing that can be read; it is
    given answers, and how those are generated is tested in test_generation.py."""


SP, FT, LORA = glinerev.spec.SPEC, full_finetune.spec.SPEC, lora.spec.SPEC
PROMPT, HEAD = r"\.prompt_encoder\.", r"^core\.(span_rep_layer|prompt_rep_layer)\."
HEAD_AND_RNN = r"^core\.(span_rep_layer|prompt_rep_layer|rnn)\."
ENCODERS = r"^core\.token_rep_layer\."
SP_RATES = {"prompt_encoder_lr": 2e-3, "downstream_lr": 3e-4}
FT_RATES = {"encoder_lr": 4e-5, "others_lr": 3e-4}
LDSA, SP_BASE = ldsa.spec.SPEC, softprompt_base.spec.SPEC
SP_BI, SP_CROSS = injection_bi.spec.SPEC, injection_cross.spec.SPEC
LABEL_ENCODER = r"^core\.token_rep_layer\.labels_encoder\."
VANER, NERLLAMA = vaner.spec.SPEC, nerllama.spec.SPEC
PROJECTION, BEGIN = r"^core\.token_rep_layer\.labels_projection\.", "^begin_offset$"
BIO = {"token": TokenConfig(scheme="bio")}


def prompts(pooling: str, **more: Any) -> dict[str, Any]:
    """Settings of short prompts."""
    return {"prompts": PromptConfig(pooling=pooling, prompt_length=4, **more)}


def ldsa_row(**settings: Any) -> Row:
    pattern = "|".join([LABEL_ENCODER, PROJECTION, *([BEGIN] if settings else [])])
    return Row(LDSA, "bi-bert", {"label encoder": (pattern, 2e-3)}, {"learning_rate": 2e-3, **settings}, idle=POOLERS)


def sp_base_row(variant: str, **settings: Any) -> Row:
    return Row(
        SP_BASE,
        "bi-deberta",
        {"table": (r"^comparison\.labels\.table\.", 2e-3), "projection": (PROJECTION, 3e-3)},
        {"table_lr": 2e-3, "projection_lr": 3e-3, "variant": variant, **settings},
    )


def sp_bi_row(base: str, pooling: str, **more: Any) -> Row:
    return Row(
        SP_BI,
        base,
        {"prompt encoder": (r"^comparison\.labels\.prompts\.", 2e-3), "projection": (PROJECTION, 3e-3)},
        {"prompt_encoder_lr": 2e-3, "projection_lr": 3e-3, **prompts(pooling, **more)},
    )


def sp_cross_row(base: str, pooling: str, train_embedding_table: bool = False, **settings: Any) -> Row:
    pattern = "|".join([r"^comparison\.prompts\.", *([BEGIN] if "token" in settings else [])])
    own = prompts(pooling, train_embedding_table=train_embedding_table)
    return Row(SP_CROSS, base, {"prompt encoder": (pattern, 4e-3)}, {"learning_rate": 4e-3, **own, **settings})


def lora_row(base: str, method: str, adapters: str = "", **settings: Any) -> Row:
    """A method of which a pattern says what its adapters are called; the layers that have one follow the mode."""
    encoder = {"text": "bert_layer", "label": "labels_encoder", "both": ""}[settings.get("target", "text")]
    names = (
        r"(attention\.self\.(key|value)(_proj)?|output\.dense)"
        if method == "ia3"
        else ".*(query|key|value|dense)(_proj)?"
    )
    layers = "" if method == "bitfit" else rf"|{encoder}.*\.layer\.\d+\.{names}\.$"
    scales = {"dora": r"\.lora_magnitude_vector\.", "ia3": rf"\.ia3_{layers}"}.get(method)
    trains = {"adapters": (rf"{encoder}.*{adapters}{layers}", 4e-3)} if adapters else {}
    trains |= {"scales": (scales, 4e-3)} if scales else {}
    return Row(
        LORA,
        base,
        trains | ({"head": (HEAD, 3e-4)} if settings.get("head", True) else {}),
        {"encoder": base.split("-")[0], "method": method, "adapter_lr": 4e-3, "head_lr": 3e-4, **settings},
        no_decay=("scales",),
    )


def vaner_row(**settings: Any) -> Row:
    return Row(
        VANER,
        "causal-llama",
        {"adapters": (r"^network\..*\.lora_(A|B|dropout)\.", 2e-3), "head": (r"^head\.", 3e-3)},
        {"adapter_lr": 2e-3, "head_lr": 3e-3, "dbr": "off", "max_length": 128, "threshold": 0.9, **settings},
    )


def nerllama_row(**settings: Any) -> Row:
    return Row(
        NERLLAMA,
        "causal-llama",
        {"adapters": (r"^network\..*\.lora_(A|B|dropout)\.", 2e-3)},
        {"adapter_lr": 2e-3, "max_sentence": 12, "max_length": 512, "training_shots": 1, "shots": 1, **settings},
        generates=True,
    )


ROWS = {
    "SP-GLiNER residual": Row(
        SP, "bi-bert", {"prompt encoder": (PROMPT, 2e-3), "downstream": (HEAD, 3e-4)}, {**SP_RATES}
    ),
    "SP-GLiNER post_norm": Row(
        SP,
        "bi-deberta",
        {"prompt encoder": (PROMPT, 2e-3), "downstream": (HEAD, 3e-4)},
        {**SP_RATES, "prompt_form": "post_norm", "labels": "descriptions"},
    ),
    "SP-GLiNER head only": Row(SP, "bi-bert", {"downstream": (HEAD, 3e-4)}, {**SP_RATES, "prompt_encoder": False}),
    "SP-GLiNER prompt only": Row(
        SP, "bi-bert", {"prompt encoder": (PROMPT, 2e-3)}, {**SP_RATES, "head": False, "prompt_layers": 2}
    ),
    "SP-GLiNER all": Row(
        SP,
        "bi-bert",
        {"prompt encoder": (PROMPT, 2e-3), "downstream": (HEAD, 3e-4), "rest": (ENCODERS, 3e-5)},
        {**SP_RATES, "rest_lr": 3e-5, "focal_gamma": 2.0, "focal_alpha": 0.75},
        idle=POOLERS,
    ),
    "Full-FT bi, BERT": Row(
        FT, "bi-bert", {"encoders": (ENCODERS, 4e-5), "others": (HEAD, 3e-4)}, {**FT_RATES}, idle=POOLERS
    ),
    "Full-FT bi, DeBERTa": Row(
        FT,
        "bi-deberta",
        {"encoders": (ENCODERS, 4e-5), "others": (HEAD, 3e-4)},
        {**FT_RATES, "labels": "descriptions"},
        idle=POOLERS,
    ),
    "Full-FT cross, BERT": Row(
        FT,
        "cross-bert",
        {"encoders": (ENCODERS, 4e-5), "others": (HEAD_AND_RNN, 3e-4)},
        {**FT_RATES, "encoder": "cross"},
        idle=POOLERS,
    ),
    "Full-FT cross, DeBERTa": Row(
        FT,
        "cross-deberta",
        {"encoders": (ENCODERS, 4e-5), "others": (HEAD_AND_RNN, 3e-4)},
        {**FT_RATES, "encoder": "cross", "focal_gamma": 1.5},
    ),
    "LoRA": lora_row("bi-bert", "lora", r"\.lora_"),
    "LoRA label": lora_row("bi-deberta", "lora", r"\.lora_", target="label", labels="descriptions"),
    "LoRA cross, adapters only": lora_row("cross-bert", "lora", r"\.lora_", head=False, focal_gamma=1.5),
    "DoRA": lora_row("cross-deberta", "dora", r"\.lora_(?!magnitude)", dropout=0.2),
    "LoHa": lora_row("bi-bert", "loha", r"\.hada_"),
    "LoKr": lora_row("bi-bert", "lokr", r"\.lokr_"),
    "IA3": lora_row("bi-deberta", "ia3", target="both"),
    "BitFit": lora_row("cross-deberta", "bitfit", r"\.bias$"),
    "LDSA": ldsa_row(),
    "LDSA bio": ldsa_row(**BIO),
    "SP-Base v1": sp_base_row("v1"),
    "SP-Base focal": sp_base_row("focal"),
    "SP-Base focal_cb": sp_base_row("focal_cb", focal=FocalConfig(2.0, 0.99)),
    "SP-Bi attention": sp_bi_row("bi-bert", "attention"),
    "SP-Bi conv1d": sp_bi_row("bi-deberta", "conv1d"),
    "SP-Bi own table": sp_bi_row("bi-bert", "adaptive_max", train_embedding_table=True),
    "SP-Cross token, BERT": sp_cross_row("cross-bert", "conv1d"),
    "SP-Cross token, DeBERTa": sp_cross_row("cross-deberta", "conv1d_strided"),
    "SP-Cross token, bio, own table": sp_cross_row("cross-bert", "adaptive_avg", train_embedding_table=True, **BIO),
    "SP-Cross span, BERT": sp_cross_row("cross-bert", "conv1d", level="span"),
    "SP-Cross span, DeBERTa": sp_cross_row("cross-deberta", "attention", level="span"),
    "VANER": vaner_row(),
    "VANER causal": vaner_row(attention="causal", adapters=LoraConfig(rank=4, modules=("q_proj", "v_proj"))),
    "NERLlama3.1": nerllama_row(),
    "NERLlama3.1, one prompt": nerllama_row(form="multi", loss="all"),
}


@pytest.fixture(scope="module", params=ROWS)
def row(request):
    return ROWS[request.param]


@pytest.fixture(scope="module")
def made(row, trial):
    """The row's trial."""
    return trial(row.spec, row.base, **row.settings)


@pytest.fixture(scope="module")
def model(made):
    """The row's model, for tests that change none of its weights."""
    return made.model()


def expected_names(row: Row, model: torch.nn.Module) -> dict[str, set[str]]:
    """Names of each part's parameters by the row's patterns; a name belongs to the first part that it matches."""
    found: dict[str, set[str]] = {part: set() for part in row.trains}
    for name, _ in model.named_parameters():
        part = next((part for part, (pattern, _) in row.trains.items() if re.search(pattern, name)), None)
        if part:
            found[part].add(name)
    return found


def test_is_an_approach_with_the_labels_that_it_was_given(made, model):
    assert isinstance(model, Approach)
    assert model.labels is made.data.labels


def test_declared_parts_are_the_documented_ones(row, model):
    declared = {part: set(names) for part, names in declared_parameters(model, model.parts).items()}
    assert declared == expected_names(row, model)
    assert all(declared.values())
    assert {part.name: part.learning_rate for part in model.parts} == {
        part: rate for part, (_, rate) in row.trains.items()
    }


def test_a_path_that_does_not_exist_is_an_error(trial):
    model = trial(SP, "bi-bert").model()
    for path in ("core.nothing", "core.span_rep", f"{model.parts[0].modules[0]}."):
        with pytest.raises(ValueError, match=f"'extra': {re.escape(repr(path))} matches no parameter"):
            freeze_all_but(model, [*model.parts, TrainedPart("extra", (path,), 1e-3)])
    twice = TrainedPart("extra", model.parts[0].modules, 1e-3)
    with pytest.raises(ValueError, match=f"is declared by part {model.parts[0].name!r} and by part 'extra'"):
        declared_parameters(model, [*model.parts, twice])


def test_exactly_the_declared_parameters_get_a_gradient_and_change(row, made):
    model = made.model()
    assert not any(module.training for module in model.modules()), "a new model is in evaluation mode"
    trained = freeze_all_but(model, model.parts)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(optimizer_groups(model, model.parts, 0.01))
    batch = model.collate(model.encode(made.data.train[:16]))
    model.train()
    with_gradient = set()
    # The residual form's LayerNorm has its first gradient in the second step: its linear map starts at 0.
    for _ in range(3):
        loss = model(batch)
        assert loss.isfinite()
        loss.backward()
        with_gradient |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
        optimizer.zero_grad()
    wanted = {name for name in trained if not re.search(row.idle, name)}
    assert set.union(*expected_names(row, model).values()) == set(trained)
    assert with_gradient == wanted
    assert {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])} == wanted


def test_optimizer_groups(row, model):
    groups = optimizer_groups(model, model.parts, weight_decay=0.03)
    parameters = dict(model.named_parameters())
    name_of = {id(parameter): name for name, parameter in parameters.items()}
    held = [name_of[id(parameter)] for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    expected = {}
    for part, names in expected_names(row, model).items():
        plain = {name for name in names if "bias" in name.rpartition(".")[2] or re.search("[nN]orm", name)}
        plain = names if part in row.no_decay else plain
        for suffix, chosen, decay in (("", names - plain, 0.03), (", no decay", plain, 0.0)):
            if chosen:
                expected[part + suffix] = (chosen, row.trains[part][1], decay)
    assert {
        group["name"]: ({name_of[id(p)] for p in group["params"]}, group["lr"], group["weight_decay"])
        for group in groups
    } == expected
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(parameters[name].numel() for name in held)
    assert all(group["initial_lr"] == group["lr"] for group in groups)


def test_frozen_modules_stay_in_evaluation_mode(row, model):
    model.train()
    patterns = [pattern for pattern, _ in row.trains.values()]
    for name, module in model.named_modules():
        trained = name == "" or any(re.search(pattern, f"{name}.") for pattern in patterns)
        # cuDNN has no gradient through a recurrent layer in evaluation mode; of one layer, it has no dropout.
        assert module.training == (trained or isinstance(module, torch.nn.RNNBase)), name
    model.eval()
    assert not any(module.training for module in model.modules())


def test_frozen_modules_have_no_dropout(made):
    """With the trained parts' dropout off, training is as deterministic as evaluation."""
    model = made.model()
    freeze_all_but(model, model.parts)
    batch = model.collate(model.encode(made.data.train[:4]))
    model.train()
    assert any(isinstance(module, torch.nn.Dropout) and module.p for module in model.modules())
    model.word_dropout = 0.0
    for module in model.modules():
        if module.training and isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # gliner's attention reads its dropout from attributes.
    for module in model.modules():
        if module.training and isinstance(getattr(module, "dropout_prob", None), float):
            module.dropout_prob = 0.0
    first = model(batch)
    assert first == model(batch)
    model.eval()
    with torch.no_grad():
        assert model(batch).item() == pytest.approx(first.item(), rel=1e-5)


@pytest.mark.slow
def test_a_run_saves_and_counts_what_it_trained_and_loads_to_equal_predictions(row, made, model, tmp_path):
    untrained = model
    model, run = made.but(epochs=1, select_by="loss").train()
    set_threshold(model, made.data.test)
    loaded = made.load(run)
    if hasattr(model, "threshold"):
        loaded.threshold = model.threshold
    if row.generates:
        # Given by prompts: the loaded model must ask what the trained one does.
        give_answers(model, made.data.test, tmp_path / "answers")
        loaded.generator.store = model.generator.store
    found = predictions(loaded, made.data.test)
    assert sum(map(len, found)) > 5
    assert found == predictions(model, made.data.test)
    declared = set.union(*expected_names(row, model).values())
    assert set(load_tensors(run.path / WEIGHTS_FILE)) == declared
    # It predicts otherwise than an untrained one.
    untrained.eval()
    batch = untrained.collate(untrained.encode(made.data.test[:4]))
    with torch.no_grad():
        assert untrained(batch) != loaded(batch)

    counted = run.record["parameters"]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert counted["total"] == sum(sizes.values())
    assert counted["trainable"] == sum(sizes[name] for name in declared) == count_parameters(model)[0]
    assert counted["with_gradient"] == sum(sizes[name] for name in declared if not re.search(row.idle, name))
    assert 0 < counted["with_gradient"] <= counted["trainable"] <= counted["total"]


# -- predictors: also what trains nothing -----------------------------------------------------------------------------

ZERO_SHOT = {
    f"zero-shot {base}, {labels}": (base, labels)
    for base in ("bi-bert", "cross-deberta")
    for labels in ("names", "descriptions")
}


@pytest.fixture(scope="module", params=[*ROWS, *ZERO_SHOT])
def predictor(request, load, trial, data, tmp_path_factory):
    """Every approach's model, untrained; the tests change none of its weights."""
    if request.param in ROWS:
        row = ROWS[request.param]
        model = trial(row.spec, row.base, **row.settings).model()
        if row.generates:
            give_answers(model, data.test, tmp_path_factory.mktemp("answers"))
        if getattr(model, "begin_offset", None) is not None:
            # At 0, where it starts, a begin class ties with its type's, and rounding alone would choose.
            torch.nn.init.normal_(model.begin_offset)
    else:
        base, labels = ZERO_SHOT[request.param]
        encoder = "bi" if base.startswith("bi") else "cross"
        config = zeroshot_baseline.config.Config("tiny", encoder=encoder, labels=labels)
        model = zeroshot_baseline.model.build(config, load(base), LABELS)
    set_threshold(model, data.test)
    return model


def test_predictions_are_flat_and_inside_the_sentence(predictor, data):
    found = predictions(predictor, data.test)
    assert sum(map(len, found)) > 5
    for sentence, spans in zip(data.test, found, strict=True):
        # make_sentence refuses spans that overlap or leave the sentence.
        make_sentence(sentence.words, [item.span for item in spans])
        for item in spans:
            assert item.span.label in LABELS.names
            assert 0 <= item.score <= 1


def test_padding_changes_no_prediction(predictor, data):
    alone = predictions(predictor, data.test, size=1)
    padded = predictions(predictor, data.test, size=len(data.test))
    assert spans_of(alone) == spans_of(padded)
    for first, second in zip(alone, padded, strict=True):
        assert sorted(item.score for item in first) == pytest.approx(sorted(item.score for item in second), abs=1e-4)


def test_scores_that_are_no_numbers_are_refused(predictor, data, monkeypatch):
    """As of a model that overflows in half precision: it would find nothing, or anything."""
    if hasattr(predictor, "generator"):
        pytest.skip("answers are given here; see test_generation.py")
    batch, logits = predictor.collate(predictor.encode(data.test[:3])), predictor.logits
    monkeypatch.setattr(predictor, "logits", lambda batch: logits(batch) * float("nan"))
    predictor.eval()
    with pytest.raises(InputError, match=r"scores of 3 sentences are no numbers \(the severe .*use --precision fp32"):
        predictor.predict(batch)


def test_predict_in_training_mode_is_an_error(predictor, data):
    batch = predictor.collate(predictor.encode(data.test[:2]))
    predictor.train()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        predictor.predict(batch)


def test_entity_free_batch_has_a_finite_loss(predictor):
    sentences = [make_sentence(["the"], []), make_sentence(["was", "seen", "in", "patients", "."], [])]
    batch = predictor.collate(predictor.encode(sentences))
    predictor.train()
    loss = predictor(batch)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert 0 < loss.item() < float("inf")


def test_reach_is_what_gold_and_oracle_differ_in(predictor, data):
    """Every lost gold span has one reason, and what is not lost is what a model that errs nowhere says."""
    encoded = predictor.encode([*data.test, *data.train, *generated_split(60, seed=11)])
    reasons: Counter[str] = Counter()
    for item in encoded:
        lost = predictor.unreachable(item)
        assert all(count >= 0 for count in lost.values())
        gold, oracle = set(item.sentence.spans), predictor.oracle(item)
        make_sentence(item.sentence.words, oracle)
        assert sum(lost.values()) == len(gold - set(oracle))
        # What the oracle says beside gold are touching entities as one.
        assert len(set(oracle) - gold) <= lost.get("touching", 0) // 2
        reasons.update(lost)
    assert reasons["truncation"] >= 3
    if "no faithful copy" in reasons:
        assert reasons["no faithful copy"] == 0
        return
    of_its_kind = [reason for reason in ("maximum width", "touching") if reason in reasons]
    assert len(of_its_kind) == 1
    if getattr(predictor, "scheme", "io") == "bio":
        assert reasons["touching"] == 0
    else:
        assert reasons[of_its_kind[0]] >= 3
