"""SP-GLiNER: where the prompt encoder acts, what it leaves alone, its control runs, and its export as a plain
GLiNER.
"""

import random

import pytest
import torch
from gliner import GLiNER
from safetensors import safe_open
from tiny import ENTITIES, LABELS, predictions, set_threshold
from torch import nn

import common.entry
from common.bases import load_base
from common.config import DataConfig
from common.data.dataset import make_sentence
from common.entry import ExportConfig
from common.errors import InputError
from common.files import read_json
from common.models.span_model import SpanModel
from common.spec import variant_text
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


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "residual"),
        ({"prompt_form": "post_norm"}, "post_norm"),
        ({"prompt_encoder": False}, "head only"),
        ({"head": False}, "residual, prompt only"),
        ({"prompt_layers": 3}, "residual, 3 layers"),
        ({"prompt_layers": 2, "prompt_hidden": 64}, "residual, 2 layers of 64"),
        ({"unfreeze_head_after": 3}, "residual, head unfrozen after 3"),
        ({"prompt_encoder_lr": 1e-2}, "residual, prompt rate 0.01"),
    ],
)
def test_names_of_variants(settings, name):
    """A rate is tuned: another one is in the name, and yet the default variant."""
    found = variant(config(**settings))
    assert variant_text(found) == name
    assert SPEC.is_default(found, "bi") == (set(settings) <= {"prompt_encoder_lr"})


def test_the_head_only_control_has_no_prompt_encoder(load):
    model = build(config(prompt_encoder=False), load("bi-bert"), LABELS)
    assert not any(isinstance(module, PromptEmbedding) for module in model.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_encoder": False, "head": False}, "nothing to train: --no-prompt-encoder and --no-head exclude each"),
        ({"prompt_encoder_lr": 0.0}, "prompt_encoder_lr must be positive, got 0.0"),
        ({"downstream_lr": float("nan")}, "downstream_lr must be positive, got nan"),
        ({"downstream_lr": float("inf")}, "downstream_lr must be positive, got inf"),
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


def export(run, output):
    common.entry.export(SPEC, ExportConfig(output, str(run)))


def shapes(folder):
    """The tensors of a model's folder."""
    with safe_open(f"{folder}/model.safetensors", framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@pytest.mark.slow
@pytest.mark.parametrize("case", EXPORTED)
def test_an_export_is_a_plain_gliner_with_equal_scores(trial, tmp_path, case):
    """Of a run whose prompt encoder has moved far from where it started."""
    base, settings = EXPORTED[case]
    train = {"epochs": 4, "batch_size": 4}
    made = trial(SPEC, base, train=train, prompt_encoder_lr=2e-2, downstream_lr=1e-2, **settings)
    model, run = made.train()
    output = tmp_path / "exported" / "plain"
    export(run.path, output)
    plain = SpanModel(load_base(str(output), "bi"), LABELS, LABELS.names)
    untrained = SpanModel(made.base(), LABELS, LABELS.names)
    batch = model.collate(model.encode(made.data.test))
    with torch.no_grad():
        ours, theirs, before = (side.logits(batch) for side in (model, plain, untrained))
    inside = ours.isfinite()
    torch.testing.assert_close(theirs[inside], ours[inside], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before[inside], ours[inside], atol=1e-2)
    # For labels that it was not trained on, too.
    for texts in (LABELS.descriptions, ("the", "monocytes of patients", "IL-2")):
        vectors = [label_vectors(SpanModel(side.base, LABELS, texts)) for side in (model, plain)]
        torch.testing.assert_close(*vectors, rtol=1e-5, atol=1e-5)

    # It has the files and tensors of its base, and none of ours.
    assert shapes(output) == shapes(made.config.base_model)
    names = {path.name for path in output.iterdir()}
    assert names == {path.name for path in made.base_folder().iterdir()} | {"adaptation.json", "README.md"}
    assert [path.name for path in output.parent.iterdir()] == ["plain"]
    about = read_json(output / "adaptation.json")
    assert about["threshold"] == run.record["threshold"]
    assert list(about["labels"]) == run.record["labels"]["names"]

    # gliner alone finds the same in it, of words that gliner's own splitter leaves whole.
    gliner = GLiNER.from_pretrained(str(output), local_files_only=True)
    words = [word for texts in ENTITIES.values() for text in texts for word in text.split() if word.isalnum()]
    generator = random.Random(0)
    picked = [generator.choices([*words, "the", "of", "in"], k=generator.randint(2, 9)) for _ in range(30)]
    sentences = [make_sentence(chosen, []) for chosen in picked]
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
