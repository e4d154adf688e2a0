"""``new:ENCODER``: a fresh GLiNER on an encoder, the same on every machine."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import LABELS, QUICK, TEXT_LIMIT, TEXT_WIDTH, _encoder_config, predictions, set_threshold, wordpiece
from transformers import RobertaConfig, RobertaModel

import full_finetune.export
import full_finetune.test
import full_finetune.train
from common.bases import base_revision, load_base
from common.checkpoint import load_checkpoint
from common.data.dataset import load_dataset, make_sentence
from common.errors import InputError
from common.evaluation.results import read_result
from common.export.card import model_card
from common.files import read_json, sha256_file
from common.models.published import base_name
from common.models.span_model import SpanModel
from common.training.records import RUN_FILE
from full_finetune.spec import SPEC


@pytest.fixture
def encoder(tiny_encoder):
    """A tiny BERT as transformers saves it."""
    return tiny_encoder


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_the_encoder_is_the_given_one_and_the_rest_is_the_same_each_time(encoder, kind):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    base = load_base(f"new:{encoder}", kind)
    assert torch.equal(torch.get_rng_state(), before), "what is drawn afterwards does not depend on it"
    torch.manual_seed(2)
    again = load_base(f"new:{encoder}", kind)
    state, other = base.core.state_dict(), again.core.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
    stored = load_file(encoder / "model.safetensors")
    n_words = stored["embeddings.word_embeddings.weight"].shape[0]
    for part in ("text encoder", *(["label encoder"] if kind == "bi" else [])):
        for name, tensor in base.part(part).model.state_dict().items():
            assert torch.equal(tensor[:n_words] if "word_embeddings" in name else tensor, stored[name])
    assert (base.kind, base.config.hidden_size, base.has("BiLSTM")) == (kind, TEXT_WIDTH, kind == "cross")
    assert base.name == base_name(f"new:{encoder}") == "new:tiny-encoder"
    assert base.location == f"new:{encoder}"
    assert base.revision == base_revision(f"new:{encoder}") == f"sha256:{sha256_file(encoder / 'model.safetensors')}"


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_a_roberta_counts_positions_from_behind_that_of_padding(tmp_path, kind):
    """Its last positions are not for text, and a tokenizer without a limit does not know that."""
    tokenizer = wordpiece(int(1e30))
    shape = _encoder_config("bert", TEXT_WIDTH, len(tokenizer))
    kept = {name: shape[name] for name in shape if name in RobertaConfig().to_dict() and name != "model_type"}
    RobertaModel(RobertaConfig(**kept)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = SpanModel(load_base(f"new:{tmp_path}", kind), LABELS, LABELS.names)
    encoded = model.encode([make_sentence(["IL-2"] * 200, [])])
    assert encoded[0].length == model.limit == TEXT_LIMIT - tokenizer.pad_token_id - 1
    assert len(model.predict(model.collate(encoded))) == 1


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_full_fine_tuning_makes_a_base_of_it(encoder, dataset_path, tmp_path, kind):
    fit = ["--epochs", "1", "--batch-size", "8", "--others-lr", "0.01"]
    run = full_finetune.train.main(
        ["--dataset", str(dataset_path), "--encoder", kind, "--base-model", f"new:{encoder}", *fit, *QUICK]
    )
    assert read_json(run / RUN_FILE)["base_model"]["name"] == "new:tiny-encoder"
    result = full_finetune.test.main(["--dataset", str(dataset_path), *QUICK])
    assert read_result(result)["base_model"]["name"] == "new:tiny-encoder"
    assert str(encoder) not in result.read_text("utf-8")

    plain = full_finetune.export.main(["--output", str(tmp_path / "plain"), "--checkpoint", str(run)])
    assert str(encoder) not in (plain / "gliner_config.json").read_text("utf-8")
    made = load_base(str(plain), kind)
    checkpoint = load_checkpoint(SPEC, run)
    loaded = checkpoint.model
    on_hub = checkpoint.record | {"base_model": {"name": "new:owner/encoder", "revision": "abc", "kind": kind}}
    card = model_card(replace(checkpoint, record=on_hub), dict.fromkeys(loaded.label_texts, 0.5), "x", None, None, None)
    assert "base_model: owner/encoder\n" in card
    data = load_dataset(str(dataset_path))
    set_threshold(loaded, data.test)
    wanted = predictions(loaded, data.test)
    assert any(wanted)
    assert predictions(SpanModel(made, data.labels, data.labels.names, threshold=loaded.threshold), data.test) == wanted


def test_an_encoder_of_the_hub_is_read_at_its_commit(encoder, monkeypatch, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "commit")
    asked = []

    def snapshot(repository, files, revision):
        asked.append((repository, revision))
        return folder

    monkeypatch.setattr("common.bases.snapshot", snapshot)
    monkeypatch.setattr("common.bases.commit_of", lambda repository, revision: f"newest of {repository}")
    assert base_revision("new:owner/encoder") == "newest of owner/encoder"
    for source, revision in (("new:owner/encoder", "earlier"), ("new:owner/encoder@earlier", None)):
        base = load_base(source, "bi", revision)
        assert (base.name, base.location, base.revision) == ("new:owner/encoder", "new:owner/encoder", "commit")
        assert base.config.model_name == base.config.labels_encoder == "owner/encoder"
    assert asked == [("owner/encoder", "earlier"), ("owner/encoder", "commit")] * 2


def without_a_layer(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.layer.1.")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def with_a_pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def naming_code(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_layer, r"encoder broken: lacks 16 of \d+ tensors, such as encoder.layer.1"),
        (with_a_pointer, "model.safetensors is a Git LFS pointer"),
        (naming_code, "config.json names code to be run, auto_map"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights file"),
        (lambda folder: (folder / "config.json").unlink(), "could not be loaded"),
        (lambda folder: (folder / "gliner_config.json").write_text("{}"), "holds a GLiNER, not an encoder"),
    ],
    ids=["weights", "pointer", "code", "no weights", "no configuration", "gliner"],
)
def test_what_is_no_encoder_is_refused(encoder, tmp_path, change, message):
    folder = shutil.copytree(encoder, tmp_path / "broken")
    change(folder)
    with pytest.raises(InputError, match=message):
        load_base(f"new:{folder}", "bi")


@pytest.mark.parametrize("source", ["new:", "new:nowhere", "new:/no/such/folder", "new:./x"])
def test_an_encoder_that_is_not_there(source):
    with pytest.raises(InputError, match="neither a folder nor a hub id"):
        base_revision(source)


def test_a_new_base_needs_a_kind(encoder):
    with pytest.raises(InputError, match="whether it is bi or cross"):
        load_base(f"new:{encoder}", None)
