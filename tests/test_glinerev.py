"""SP-GLiNER: where the prompt encoder acts, what it leaves alone, its control runs, and its export as a plain
GLiNER.
"""

import random
from dataclasses import replace

import pytest
import torch
from gliner import GLiNER
from safetensors import safe_open
from tiny import ENTITIES, LABELS, RUNTIME, predictions, set_threshold
from torch import nn

import common.entry
from common.approach import freeze_all_but
from common.bases import load_base
from common.config import DataConfig
from common.data.dataset import make_sentence
from common.entry import ExportConfig
from common.errors import InputError
from common.files import read_json
from common.models.span_model import SpanModel
from common.spec import variant_text
from common.training.records import WEIGHTS_FILE
from common.training.run_folder import load_tensors
from glinerev.config import Config
from glinerev.export import main
from glinerev.model import PromptEmbedding, PromptEncoder, build
from glinerev.spec import SPEC, variant


def config(**settings) -> Config:
    return Config(data=DataConfig("tiny"), **settings)


def label_vectors(model: SpanModel) -> torch.Tensor:
    with torch.no_grad():
        return model.core.token_rep_layer.encode_labels(model.label_input_ids, model.label_attention_mask)


def label_embedding(model: SpanModel) -> nn.Module:
    return model.base.part("label encoder").model.get_input_embeddings()


# -- the map ----------------------------------------------------------------------------------------------------------


def test_forms_by_hand():
    torch.manual_seed(0)
    values = torch.randn(5, 7, 6)
    residual, post_norm = PromptEncoder(6, "residual"), PromptEncoder(6, "post_norm")
    assert torch.equal(residual(values), values)
    assert not residual.linear.weight.any()
    assert not post_norm.linear.bias.any()
    # Xavier: variance 2 / (fan in + fan out).
    wide = PromptEncoder(200, "post_norm").linear.weight
    assert wide.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.05)
    for encoder in (residual, post_norm):
        for parameter in encoder.parameters():
            nn.init.normal_(parameter)
    weight, bias = residual.linear.weight, residual.linear.bias
    normed = (values - values.mean(-1, keepdim=True)) / (values.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    scaled = normed * residual.norm.weight + residual.norm.bias
    torch.testing.assert_close(residual(values), values + scaled @ weight.T + bias)
    summed = values + values @ post_norm.linear.weight.T + post_norm.linear.bias
    torch.testing.assert_close(post_norm(values), post_norm.norm(summed))


def test_a_deeper_map_by_hand():
    torch.manual_seed(0)
    values = torch.randn(5, 6)
    residual, post_norm = PromptEncoder(6, "residual", 3, 4), PromptEncoder(6, "post_norm", 2)
    assert torch.equal(residual(values), values)
    assert [tuple(p.shape) for p in residual.hidden.parameters()] == [(4, 6), (4,), (4, 4), (4,)]
    assert [tuple(p.shape) for p in post_norm.hidden.parameters()] == [(6, 6), (6,)]
    assert not list(PromptEncoder(6, "residual").hidden.parameters())
    for parameter in (*residual.parameters(), *post_norm.parameters()):
        nn.init.normal_(parameter)

    def layer(inputs, linear):
        summed = inputs @ linear.weight.T + linear.bias
        return summed * 0.5 * (1 + (summed / 2**0.5).erf())

    inner = layer(layer(residual.norm(values), residual.hidden[0]), residual.hidden[2])
    torch.testing.assert_close(residual(values), values + inner @ residual.linear.weight.T + residual.linear.bias)
    summed = values + layer(values, post_norm.hidden[0]) @ post_norm.linear.weight.T + post_norm.linear.bias
    torch.testing.assert_close(post_norm(values), post_norm.norm(summed))


@pytest.mark.parametrize("settings", [{}, {"prompt_layers": 2, "prompt_hidden": 8}])
def test_at_step_0_the_residual_form_is_the_base_model(load, data, settings):
    """Scores equal bit by bit: the map is added before the label encoder, once, and adds nothing yet."""
    plain = SpanModel(load("bi-bert"), LABELS, LABELS.names)
    adapted = build(config(prompt_form="residual", **settings), load("bi-bert"), LABELS)
    batch = plain.collate(plain.encode(data.test))
    with torch.no_grad():
        assert torch.equal(plain.logits(batch), adapted.logits(batch))
        # The other form is not the base model.
        other = build(config(prompt_form="post_norm"), load("bi-bert"), LABELS)
        assert not torch.allclose(plain.logits(batch)[:, 0, 0], other.logits(batch)[:, 0, 0])


@pytest.mark.parametrize("form", ["post_norm", "residual"])
def test_an_identity_in_its_place_gives_the_original_encoder(load, form):
    """The reference applied positions, LayerNorm and dropout twice; with an identity the encoder must be unchanged."""
    expected = label_vectors(SpanModel(load("bi-bert"), LABELS, LABELS.names))
    model = build(config(prompt_form=form), load("bi-bert"), LABELS)
    embedding = label_embedding(model)
    assert isinstance(embedding, PromptEmbedding)
    embedding.prompt_encoder = nn.Identity()
    assert torch.equal(label_vectors(model), expected)


def test_it_acts_on_word_embeddings_before_positions_and_norm(load):
    """A map of word embeddings alone equals the encoder run on embeddings that were mapped beforehand."""
    model = build(config(prompt_form="post_norm"), load("bi-bert"), LABELS)
    embedding = label_embedding(model)
    ids, mask = model.label_input_ids, model.label_attention_mask
    encoder = model.base.part("label encoder").model
    with torch.no_grad():
        mapped = embedding.prompt_encoder(embedding.embedding(ids))
        special = torch.isin(ids, torch.tensor(model.base.gliner.data_processor.labels_tokenizer.all_special_ids))
        mapped[special] = embedding.embedding(ids)[special]
        expected = encoder(inputs_embeds=mapped, attention_mask=mask)[0]
        torch.testing.assert_close(encoder(input_ids=ids, attention_mask=mask)[0], expected)


def test_special_tokens_are_untouched_and_come_from_the_tokenizer(load):
    base = load("bi-bert")
    tokenizer = base.gliner.data_processor.labels_tokenizer
    model = build(config(prompt_form="post_norm"), base, LABELS)
    embedding = label_embedding(model)
    special = sorted(tokenizer.all_special_ids)
    assert special == sorted(tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    # Not BERT's 0, 100, 101, 102, 103.
    assert special != [0, 100, 101, 102, 103]
    with torch.no_grad():
        table = embedding(torch.arange(embedding.embedding.num_embeddings))
    changed = (table != embedding.embedding.weight).any(dim=1)
    assert sorted((~changed).nonzero().flatten().tolist()) == special


def test_the_text_branch_is_untouched(load, data):
    plain = SpanModel(load("bi-bert"), LABELS, LABELS.names)
    adapted = build(config(prompt_form="post_norm"), load("bi-bert"), LABELS)
    batch = plain.collate(plain.encode(data.test))
    with torch.no_grad():
        assert torch.equal(plain._words(batch), adapted._words(batch))


def test_a_cross_encoder_has_no_label_encoder(load):
    with pytest.raises(InputError, match=r"\(UniEncoderSpanGLiNER\) has no label encoder"):
        build(config(), load("cross-bert"), LABELS)


# -- what is trained --------------------------------------------------------------------------------------------------


def changed_parts(made) -> set[str]:
    """Which parts of the model a run changed."""
    before = {name: p.clone() for name, p in made.model().named_parameters()}
    model, run = made.train()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= set(load_tensors(run.path / WEIGHTS_FILE))
    parts = {
        "prompt encoder": lambda name: ".prompt_encoder." in name,
        "head": lambda name: name.startswith(("core.span_rep_layer", "core.prompt_rep_layer")),
        "label encoder": lambda name: ".labels_encoder." in name and ".prompt_encoder." not in name,
        "label projection": lambda name: ".labels_projection." in name,
        "text encoder": lambda name: ".bert_layer." in name,
        "text projection": lambda name: ".token_rep_layer.projection." in name,
        "BiLSTM": lambda name: ".rnn." in name,
    }
    assert all(any(belongs(name) for belongs in parts.values()) for name in changed)
    return {part for part, belongs in parts.items() if any(map(belongs, changed))}


@pytest.mark.parametrize(
    ("settings", "parts", "name"),
    [
        ({}, {"prompt encoder", "head"}, "residual, prompt rate 0.01"),
        ({"prompt_form": "post_norm"}, {"prompt encoder", "head"}, "post_norm, prompt rate 0.01"),
        ({"prompt_encoder": False}, {"head"}, "head only, prompt rate 0.01"),
        ({"head": False}, {"prompt encoder"}, "residual, prompt rate 0.01, prompt only"),
        ({"prompt_layers": 3}, {"prompt encoder", "head"}, "residual, 3 layers, prompt rate 0.01"),
        (
            {"rest_lr": 1e-3},
            {"prompt encoder", "head", "label encoder", "label projection", "text encoder", "text projection"},
            None,
        ),
    ],
    # The order of a set differs between processes, and so would the names of the tests.
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_controls_train_what_they_say(trial, settings, parts, name):
    train = {"epochs": 1, "select_by": "loss"}
    made = trial(SPEC, "bi-bert", train=train, prompt_encoder_lr=1e-2, **settings)
    assert changed_parts(made) == parts
    if name:
        assert variant_text(variant(made.config)) == name


def test_the_head_only_control_has_no_prompt_encoder(load):
    model = build(config(prompt_encoder=False), load("bi-bert"), LABELS)
    assert not any(isinstance(module, PromptEmbedding) for module in model.modules())


def test_no_prompt_encoder_and_no_head_is_an_error():
    with pytest.raises(InputError, match="nothing to train: --no-prompt-encoder and --no-head exclude each other"):
        config(prompt_encoder=False, head=False)


def test_each_part_has_its_own_rate(trial):
    made = trial(SPEC, "bi-bert", prompt_encoder_lr=3e-3, downstream_lr=2e-3, rest_lr=1e-3)
    model = made.model()
    assert {part.name: part.learning_rate for part in model.parts} == {
        "prompt encoder": 3e-3, "downstream": 2e-3, "rest": 1e-3,
    }  # fmt: skip
    _, run = made.train()
    rates = run.record["history"][0]["learning_rates"]
    assert rates["prompt encoder"] / rates["rest"] == pytest.approx(3)
    assert rates["downstream"] / rates["rest"] == pytest.approx(2)


def test_the_bilstm_is_frozen_and_never_counted(trial):
    """gliner builds a bi-encoder's BiLSTM and never calls it."""
    for settings in ({}, {"rest_lr": 1e-3}):
        made = trial(SPEC, "bi-bert", **settings)
        model = made.model()
        assert model.base.has("BiLSTM")
        trained = freeze_all_but(model, model.parts)
        assert not any(".rnn." in name for name in trained)
        calls = []
        model.core.rnn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model(model.collate(model.encode(made.data.test[:2])))
        assert not calls


def test_the_name_says_how_the_head_is_unfrozen_and_that_a_rate_is_tuned():
    unfrozen = variant(config(unfreeze_head_after=3))
    assert variant_text(unfrozen) == "residual, head unfrozen after 3"
    assert not SPEC.is_default(unfrozen, "bi")
    assert SPEC.is_default(variant(config(prompt_encoder_lr=2e-3)), "bi")
    assert variant_text(variant(config(prompt_layers=2, prompt_hidden=64))) == "residual, 2 layers of 64"


@pytest.mark.parametrize("name", ["prompt_encoder_lr", "downstream_lr"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_out_of_range(name, value):
    with pytest.raises(InputError, match=f"{name} must be positive, got"):
        config(**{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rest_lr": -1e-5}, "rest_lr must be at least 0"),
        ({"focal_gamma": -1.0}, "focal_gamma must be at least 0, got -1.0"),
        ({"focal_alpha": 2.0}, "focal_alpha must be between 0 and 1, got 2.0"),
        ({"threshold": 1.5}, "threshold must be between 0 and 1, got 1.5"),
        ({"word_dropout": -0.1}, "word_dropout must be between 0 and 1, got -0.1"),
        ({"prompt_layers": 0}, "prompt_layers must be between 1 and 100, got 0"),
        ({"prompt_layers": 10**9}, "prompt_layers must be between 1 and 100, got 1000000000"),
        ({"prompt_hidden": 8}, "prompt_hidden: a map of one layer has none, see --prompt-layers"),
        ({"prompt_layers": 2, "prompt_hidden": 0}, "prompt_hidden must be between 1 and 65536, got 0"),
        ({"prompt_layers": 2, "prompt_hidden": 10**30}, "prompt_hidden must be between 1 and 65536, got 10"),
        ({"unfreeze_head_after": -1}, "unfreeze_head_after must be at least 0, got -1"),
        ({"unfreeze_head_after": 2, "head": False}, "unfreeze_head_after: needs prompt encoder and head"),
        ({"unfreeze_head_after": 2, "prompt_encoder": False}, "unfreeze_head_after: needs prompt encoder and head"),
        ({"unfreeze_head_after": 15}, "unfreeze_head_after 15: the head would never be trained in 15 epochs"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        config(**settings)


# -- export -----------------------------------------------------------------------------------------------------------


EXPORTED = {
    "residual": ("bi-bert", {}),
    "post_norm": ("bi-deberta", {"prompt_form": "post_norm"}),
    "all trained": ("bi-bert", {"rest_lr": 1e-3}),
    "head only": ("bi-bert", {"prompt_encoder": False}),
    "deeper, head unfrozen": ("bi-bert", {"prompt_layers": 2, "prompt_hidden": 8, "unfreeze_head_after": 2}),
}


@pytest.fixture(params=EXPORTED)
def trained(request, trial):
    """A run whose prompt encoder has moved far from where it started."""
    base, settings = EXPORTED[request.param]
    made = trial(
        SPEC, base, train={"epochs": 4, "batch_size": 4}, prompt_encoder_lr=2e-2, downstream_lr=1e-2, **settings
    )
    model, run = made.train()
    set_threshold(model, made.data.test)
    return made, model, run


def export(run, output):
    common.entry.export(SPEC, ExportConfig(output, str(run)))


@pytest.mark.slow
def test_an_export_is_a_plain_gliner_with_equal_scores(trained, tmp_path):
    made, model, run = trained
    output = tmp_path / "exported" / "plain"
    export(run.path, output)
    plain = SpanModel(load_base(str(output), "bi"), LABELS, LABELS.names, threshold=model.threshold)
    batch = model.collate(model.encode(made.data.test))
    with torch.no_grad():
        ours, theirs = model.logits(batch), plain.logits(batch)
    inside = ours.isfinite()
    torch.testing.assert_close(theirs[inside], ours[inside], rtol=1e-5, atol=1e-5)
    # And not the base's scores.
    untrained = SpanModel(made.base(), LABELS, LABELS.names)
    with torch.no_grad():
        assert not torch.allclose(untrained.logits(batch)[inside], ours[inside], atol=1e-2)
    # For labels that it was not trained on, too.
    for texts in (LABELS.descriptions, ("the", "monocytes of patients", "IL-2")):
        vectors = [label_vectors(SpanModel(side.base, LABELS, texts)) for side in (model, plain)]
        torch.testing.assert_close(*vectors, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_an_export_loads_without_our_code_and_predicts_the_same_entities(trained, tmp_path):
    _, model, run = trained
    output = tmp_path / "plain"
    export(run.path, output)
    gliner = GLiNER.from_pretrained(str(output), local_files_only=True)
    # Words that gliner's own splitter leaves whole.
    words = [w for texts in ENTITIES.values() for text in texts for w in text.split() if w.isalnum()] + [
        "the",
        "of",
        "in",
    ]
    generator = random.Random(0)
    sentences = [make_sentence(generator.choices(words, k=generator.randint(2, 9)), []) for _ in range(30)]
    set_threshold(model, sentences)
    found = predictions(model, sentences)
    assert sum(map(len, found)) > 10
    for sentence, spans in zip(sentences, found, strict=True):
        text = " ".join(sentence.words)
        entities = gliner.predict_entities(text, list(LABELS.names), flat_ner=True, threshold=model.threshold)
        expected = [(" ".join(sentence.words[s.start : s.end + 1]), s.label, score) for s, score in spans]
        theirs = [(entity["text"], entity["label"], entity["score"]) for entity in entities]
        assert sorted(item[:2] for item in theirs) == sorted(item[:2] for item in expected)
        assert sorted(item[2] for item in theirs) == pytest.approx(sorted(item[2] for item in expected), abs=1e-4)


@pytest.mark.slow
def test_an_export_has_the_files_and_tensors_of_its_base_and_none_of_ours(trained, tmp_path):
    made, _, run = trained
    output = tmp_path / "plain"
    export(run.path, output)
    base = made.config.base_model

    def contents(folder):
        with safe_open(f"{folder}/model.safetensors", framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    assert contents(output) == contents(base)
    assert not any("prompt_encoder" in name for name in contents(output))
    names = {path.name for path in output.iterdir()}
    assert names == {path.name for path in made.base_folder().iterdir()} | {"adaptation.json", "README.md"}
    about = read_json(output / "adaptation.json")
    assert about["threshold"] == run.record["threshold"]
    assert list(about["labels"]) == run.record["labels"]["names"]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_an_export_overwrites_nothing(trial, tmp_path):
    run = trial(SPEC, "bi-bert", train={"epochs": 1}).train()[1]
    output = tmp_path / "plain"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="plain: exists and is no empty folder"):
        export(run.path, output)
    assert [path.name for path in output.iterdir()] == ["mine.txt"]
    (output / "mine.txt").unlink()
    export(run.path, output)
    assert (output / "model.safetensors").is_file()
    with pytest.raises(InputError, match="exists and is no empty folder"):
        export(run.path, output)
    with pytest.raises(InputError, match="no such run folder"):
        export(tmp_path / "nothing", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_export_by_command_line(trial, tmp_path):
    trial(SPEC, "bi-bert", train={"epochs": 1}).train()
    output = tmp_path / "plain"
    assert main(["--checkpoint", "latest", "--dataset", "tiny", "--output", str(output)]) == output
    assert (output / "gliner_config.json").is_file()
    with pytest.raises(InputError, match="no finished run of glinerev on other"):
        main(["--dataset", "other", "--output", str(tmp_path / "b")])


def test_merged_table_by_hand(load):
    model = build(config(prompt_form="post_norm"), load("bi-bert"), LABELS)
    embedding = label_embedding(model)
    merged = embedding.merged()
    ids = torch.randint(0, embedding.embedding.num_embeddings, (3, 9))
    with torch.no_grad():
        torch.testing.assert_close(merged(ids), embedding(ids))
    assert type(merged) is nn.Embedding
    assert merged.padding_idx == embedding.embedding.padding_idx


def test_prompt_only_keeps_the_stored_features(trial):
    """Neither control run touches the text encoder, so both read stored features."""
    for settings in ({}, {"head": False}, {"prompt_encoder": False}):
        assert trial(SPEC, "bi-bert", **settings).model().frozen_part() is not None
    made = trial(SPEC, "bi-bert", rest_lr=1e-4, runtime=replace(RUNTIME, feature_cache="memory"))
    assert made.model().frozen_part() is None
