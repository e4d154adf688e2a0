"""LoRA and its relatives: what each method computes, where it acts, that it starts from the base model, and merging."""

from dataclasses import replace

import pytest
import torch
from gliner import GLiNER
from tiny import LABELS, RUNTIME, predictions, set_threshold
from torch import nn

from common.approach import count_parameters, freeze_all_but
from common.bases import load_base
from common.config import DataConfig
from common.data.dataset import make_sentence
from common.entry import ExportConfig, export
from common.errors import InputError
from common.files import write_json
from common.models.span_model import SpanModel
from common.settings import parse_training
from common.spec import variant_text
from lora.config import DEFAULTS, Config
from lora.model import adapted_layers, block_layers, build, chosen_layers, merge
from lora.spec import SPEC, TITLES, variant

pytestmark = pytest.mark.slow

METHODS = tuple(DEFAULTS)
ADAPTERS = tuple(method for method in METHODS if method != "bitfit")
PLACES = [("bi-bert", "both"), ("cross-deberta", "text")]


def config(**settings) -> Config:
    return Config(data=DataConfig("tiny"), **settings)


def adapted(base, method="lora", **settings):
    torch.manual_seed(0)
    return build(config(encoder=base.kind, method=method, **settings), base, LABELS)


@torch.no_grad()
def disturb(model) -> None:
    """Gives everything trained other values, as a training would."""
    torch.manual_seed(1)
    for parameter in freeze_all_but(model, model.parts).values():
        parameter += 0.1 * torch.randn_like(parameter)


@torch.no_grad()
def scores(model, sentences) -> torch.Tensor:
    model.eval()
    logits = model.logits(model.collate(model.encode(sentences)))
    return logits[logits.isfinite()]


# -- what each method computes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "target"), PLACES)
def test_it_starts_from_the_base_model_and_is_merged_into_one(load, data, method, name, target):
    plain = SpanModel(load(name), LABELS, LABELS.names)
    before = scores(plain, data.test)
    model = adapted(load(name), method, target=target)
    inside = {path.split(".")[2] for part in model.parts if part.name != "head" for path in part.modules}
    assert inside == ({"bert_layer", "labels_encoder"} if target == "both" else {"bert_layer"})
    # DoRA divides by a norm and multiplies by it.
    torch.testing.assert_close(scores(model, data.test), before, rtol=0, atol=1e-5 if method == "dora" else 0)
    disturb(model)
    trained = scores(model, data.test)
    assert (trained - before).abs().max() > 1e-2
    merge(model.base)
    assert set(model.state_dict()) == set(plain.state_dict())
    torch.testing.assert_close(scores(model, data.test), trained, rtol=1e-5, atol=1e-5)


def by_hand(method: str, layer, feedforward: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the plain layer that an adapted one of rank 4 and alpha 12 is equal to."""
    weight, bias = layer.get_base_layer().weight, layer.get_base_layer().bias
    own = {name: p for name, p in layer.named_parameters() if not name.startswith("base_layer.")}
    if method == "ia3":
        (scale,) = own.values()
        assert tuple(scale.shape) == ((1, weight.shape[1]) if feedforward else (weight.shape[0], 1))
        return weight * scale, bias if feedforward else bias * scale.flatten()
    if method == "loha":
        (b1, a1, b2, a2) = (own[f"hada_w{n}.default"] for n in ("1_a", "1_b", "2_a", "2_b"))
        return weight + 3 * (b1 @ a1) * (b2 @ a2), bias
    if method == "lokr":
        left = (
            own["lokr_w1.default"] if "lokr_w1.default" in own else own["lokr_w1_a.default"] @ own["lokr_w1_b.default"]
        )
        right = (
            own["lokr_w2.default"] if "lokr_w2.default" in own else own["lokr_w2_a.default"] @ own["lokr_w2_b.default"]
        )
        return weight + 3 * torch.kron(left, right), bias
    change = own["lora_B.default.weight"] @ own["lora_A.default.weight"]
    assert own["lora_A.default.weight"].shape[0] == 4
    if method == "rslora":
        return weight + 6 * change, bias
    direction = weight + 3 * change
    if method == "dora":
        magnitude = own["lora_magnitude_vector.default.weight"]
        return magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True), bias
    return direction, bias


@pytest.mark.parametrize("method", ADAPTERS)
@torch.no_grad()
def test_methods_by_hand(load, method):
    settings = {} if method == "ia3" else {"rank": 4, "alpha": 12}
    model = adapted(load("bi-bert"), method, **settings)
    disturb(model)
    layers = dict(adapted_layers(model.base.part("text encoder").model))
    expected = {}
    for path, layer in layers.items():
        weight, bias = by_hand(method, layer, feedforward=path.endswith("output.dense") and "attention" not in path)
        inputs = torch.randn(3, 5, weight.shape[1])
        torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, weight, bias), rtol=1e-4, atol=1e-5)
        expected[path] = weight, bias
    # Merged, they are plain layers with these weights.
    merge(model.base)
    merged = dict(model.base.part("text encoder").model.named_modules())
    for path, (weight, bias) in expected.items():
        assert type(merged[path]) is nn.Linear
        torch.testing.assert_close(merged[path].weight, weight)
        torch.testing.assert_close(merged[path].bias, bias)


# -- where it acts ----------------------------------------------------------------------------------------------------


BLOCK = ["attention.output.dense", "attention.self.key", "attention.self.query", "attention.self.value"]


@pytest.mark.parametrize(
    ("name", "method", "modules", "expected"),
    [
        ("bi-bert", "lora", (), [*BLOCK, "intermediate.dense", "output.dense"]),
        ("bi-bert", "ia3", (), ["attention.self.key", "attention.self.value", "output.dense"]),
        ("bi-deberta", "ia3", (), ["attention.self.key_proj", "attention.self.value_proj", "output.dense"]),
        ("cross-bert", "dora", ("query", "value"), ["attention.self.query", "attention.self.value"]),
        ("cross-bert", "ia3", ("self.query",), ["attention.self.query"]),
        ("bi-bert", "lora", ("attention.output.dense",), ["attention.output.dense"]),
    ],
)
def test_layers(load, name, method, modules, expected):
    """In each of the two blocks; never the pooler, which takes no part in the forward pass."""
    base = load(name)
    pooled = any(path == "pooler.dense" for path, _ in base.part("text encoder").model.named_modules())
    assert pooled == name.endswith("-bert")
    model = adapted(base, method, modules=modules)
    found = [path for path, _ in adapted_layers(base.part("text encoder").model)]
    assert sorted(found) == [f"encoder.layer.{block}.{path}" for block in range(2) for path in expected]
    assert "label encoder" not in {part.name for part in model.parts}


@pytest.mark.parametrize("target", ["text", "label"])
def test_stored_features_are_used_where_the_text_encoder_is_untouched(trial, target):
    settings = {"target": target, "train": {"epochs": 2}}
    made = trial(SPEC, "bi-bert", **settings, runtime=replace(RUNTIME, feature_cache="memory"))
    assert (made.model().frozen_part() is not None) == (target == "label")
    run = made.train()[1]
    assert (run.record["feature_seconds"] > 0) == (target == "label")
    plain = trial(SPEC, "bi-bert", **settings, runtime=replace(RUNTIME, feature_cache="off")).train()[1]
    losses = [[entry["train_loss"] for entry in found.record["history"]] for found in (run, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_trained_parameters_are_counted(load):
    """Two blocks of a text encoder of width 32: four maps 32 -> 32, one 32 -> 64, one 64 -> 32; the counts by hand."""
    lora = 2 * 8 * (4 * (32 + 32) + 2 * (32 + 64))
    expected = {
        "lora": lora,
        "dora": lora + 2 * (5 * 32 + 64),
        "ia3": 2 * (32 + 32 + 64),
        # Six layers and two LayerNorms in a block, one LayerNorm behind the embeddings.
        "bitfit": 2 * (5 * 32 + 64 + 2 * 32) + 32,
    }
    for method, count in expected.items():
        model = adapted(load("cross-bert"), method, head=False)
        freeze_all_but(model, model.parts)
        assert count_parameters(model)[0] == count, method
    base = sum(parameter.numel() for parameter in load("cross-bert").core.parameters())
    model = adapted(load("cross-bert"), "lora", head=False)
    assert count_parameters(model)[1] == base + lora


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "dora", "rslora"])
def test_dropout_acts_in_training_alone(load, data, method):
    model = adapted(load("bi-bert"), method, head=False, dropout=0.5)
    disturb(model)
    own = [m for _, layer in adapted_layers(model) for m in layer.modules() if isinstance(m, nn.Dropout)]
    assert [module.p for module in own] == [0.5] * 12
    batch = model.collate(model.encode(data.test[:4]))
    with torch.no_grad():
        model.train()
        first, second = model(batch), model(batch)
        assert first != second
        model.eval()
        expected = model(batch)
        assert model(batch) == expected
        # Of all dropout in the model it is the adapters' alone.
        none = adapted(load("bi-bert"), method, head=False, dropout=0.0)
        disturb(none)
        none.train()
        assert none(batch) == expected


@pytest.mark.parametrize(("target", "noisy"), [("text", {"text"}), ("label", {"label"}), ("both", {"text", "label"})])
def test_encoder_dropout_is_that_of_the_adapted_encoders(load, target, noisy):
    model = adapted(load("bi-bert"), "lora", target=target, dropout=0.0, encoder_dropout=True)
    for name in ("text", "label"):
        encoder = model.base.part(f"{name} encoder").model
        own = [module for module in encoder.modules() if isinstance(module, nn.Dropout)]
        # Attention's dropout looks at its layer's mode.
        own += [module for path, module in encoder.named_modules() if path.endswith("attention.self")]
        for mode in (True, False):
            model.train(mode)
            assert own
            assert {module.training for module in own} == {mode and name in noisy}


def test_adapters_are_float32_and_train_in_bf16(trial):
    made = trial(SPEC, "bi-bert", method="dora", runtime=replace(RUNTIME, precision="bf16"), adapter_lr=1e-2)
    model, run = made.train()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    losses = [entry["train_loss"] for entry in run.record["history"]]
    assert losses[1] < losses[0]


def test_gradient_checkpointing_trains_the_same(trial):
    losses = []
    for checkpointing in (False, True):
        train = {"epochs": 1, "gradient_checkpointing": checkpointing}
        made = trial(SPEC, "bi-bert", target="both", dropout=0.0, train=train, base_settings={"dropout": 0.0})
        losses.append(made.train()[1].record["history"][0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ia3", "rank": 4}, "rank: ia3 has none"),
        ({"method": "bitfit", "alpha": 4}, "alpha: bitfit has none"),
        ({"method": "loha", "dropout": 0.1}, "dropout: loha has none"),
        ({"method": "bitfit", "modules": ("query",)}, "modules: bitfit trains all biases of an encoder"),
        ({"encoder": "cross", "target": "label"}, "target label: a cross-encoder model has no label encoder"),
        ({"encoder": "cross", "target": "both"}, "target both: a cross-encoder model has no label encoder"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0}, "alpha must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"adapter_lr": 0.0}, "adapter_lr must be positive, got 0.0"),
        ({"head_lr": float("inf")}, "head_lr must be positive, got inf"),
        ({"threshold": 1.5}, "threshold must be between 0 and 1, got 1.5"),
        ({"word_dropout": -0.1}, "word_dropout must be between 0 and 1, got -0.1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        config(**settings)


def test_a_layer_that_no_encoder_has(load):
    message = r"--modules: no linear layer is called 'q_proj'; there are \['dense', 'key', 'query', 'value'\]"
    with pytest.raises(InputError, match=message):
        adapted(load("bi-bert"), modules=("query", "q_proj"))
    # Of the two encoders of this base one has a layer of each name, the other none.
    with pytest.raises(InputError, match=r"--method lora: the label encoder has no layers for it; name some of"):
        adapted(load("bi-deberta"), target="both", modules=("query_proj",))
    model = adapted(load("bi-deberta"), target="both", modules=("query_proj", "query"))
    assert len(adapted_layers(model)) == 4


class Fused(nn.Module):
    """Blocks with one layer for queries, keys and values, and without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.ModuleDict({"Wqkv": nn.Linear(4, 12, bias=False), "Wo": nn.Linear(8, 4, False)})]
        )
        self.classifier = nn.Linear(4, 2)


def test_an_encoder_that_a_method_does_not_fit():
    encoder = Fused()
    assert list(block_layers(encoder)) == ["layers.0.Wqkv", "layers.0.Wo"]
    with pytest.raises(
        InputError, match=r"--method ia3: the text encoder has no layers .* \['Wo', 'Wqkv'\] with --modules"
    ):
        chosen_layers(config(method="ia3"), {"text": encoder})
    assert list(chosen_layers(config(method="ia3", modules=("Wo",)), {"text": encoder})["text"]) == ["layers.0.Wo"]
    assert len(chosen_layers(config(), {"text": encoder})["text"]) == 2


def test_an_encoder_without_biases(load):
    base = load("cross-bert")
    for module in base.part("text encoder").modules():
        if getattr(module, "bias", None) is not None:
            module.bias = None
    with pytest.raises(InputError, match=r"--method bitfit: the text encoder of .* has no biases"):
        adapted(base, "bitfit")


def test_variants():
    assert variant(config()) == {"encoder": "bi", "method": "LoRA"}
    for control in SPEC.controls:
        options = parse_training(SPEC, ["--dataset", "tiny", *control.options])[0]
        assert variant(options) == {**SPEC.default_variant("bi"), **control.change}
    assert SPEC.is_default(variant(config(rank=32)), "bi")
    shown = config(method="ia3", target="both", modules=("query", "value"), head=False, labels="descriptions")
    assert variant_text(variant(shown)) == "bi, IA3, both encoders, query+value, adapters only, descriptions"
    assert set(TITLES) == set(METHODS)


def test_the_command_line_chooses_another_method_than_a_file(tmp_path):
    """What follows from the method is settled when it is known: the file's rank is its own, lora's is not ia3's."""
    write_json(tmp_path / "a.json", {"head_lr": 1e-4})
    options = ["--dataset", "tiny", "--config", str(tmp_path / "a.json")]
    found = parse_training(SPEC, [*options, "--method", "ia3", "--encoder", "cross"])[0]
    assert found == config(method="ia3", encoder="cross", head_lr=1e-4)
    assert (found.rank, found.adapter_lr) == (None, DEFAULTS["ia3"]["adapter_lr"])
    write_json(tmp_path / "a.json", {"rank": 4})
    with pytest.raises(InputError, match="rank: ia3 has none"):
        parse_training(SPEC, [*options, "--method", "ia3"])
    assert parse_training(SPEC, [*options, "--modules", "query", "value"])[0].modules == ("query", "value")


# -- use --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), [("cross-deberta", "dora"), ("bi-bert", "bitfit")])
def test_an_export_is_a_plain_gliner_with_equal_scores(trial, data, tmp_path, name, method):
    encoder = name.split("-")[0]
    made = trial(SPEC, name, method=method, encoder=encoder, adapter_lr=1e-2, train={"epochs": 1, "select_by": "loss"})
    model, run = made.train()
    export(SPEC, ExportConfig(tmp_path / "plain", str(run.path)))
    plain = SpanModel(load_base(str(tmp_path / "plain"), encoder), LABELS, LABELS.names)
    torch.testing.assert_close(scores(plain, data.test), scores(model, data.test), rtol=1e-5, atol=1e-5)
    untrained = scores(SpanModel(made.base(), LABELS, LABELS.names), data.test)
    assert (scores(model, data.test) - untrained).abs().max() > 1e-2
    # And by gliner itself, on text.
    sentences = [make_sentence(["monocytes", "was", "seen", "in", "patients", "with", "fever"], [])] * 20
    set_threshold(model, sentences)
    (ours,) = predictions(model, sentences[:1])
    gliner = GLiNER.from_pretrained(str(tmp_path / "plain"))
    theirs = gliner.predict_entities(" ".join(sentences[0].words), list(LABELS.names), threshold=model.threshold)
    assert ours
    assert sorted(item["score"] for item in theirs) == pytest.approx(sorted(item.score for item in ours), abs=1e-4)
