"""What comes from elsewhere or goes wrong: foreign files are data, weights are what they say, records have a schema, the system says no."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import save_gliner
from safetensors.torch import load_file, save_file

import glinerev.spec
from common.bases import load_base
from common.errors import InputError
from common.files import read_json, write_json

SP = glinerev.spec.SPEC


@pytest.fixture
def base(gliner_folder, tmp_path):
    """A copy of a tiny base to break."""
    folder = tmp_path / "base"
    shutil.copytree(gliner_folder("bi-bert"), folder)
    return folder


def refused(source: Path, kind: str = "bi") -> str:
    with pytest.raises(InputError) as caught:
        load_base(str(source), kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    import transformers.dynamic_module_utils as modules

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


@pytest.mark.parametrize("text", ["null", "[]", "{", "[" * 100_000, '{"max_width": ' + "9" * 5000 + "}", ""])
def test_a_configuration_that_is_none(base, text):
    (base / "gliner_config.json").write_text(text, "utf-8")
    assert "could not be loaded: " in refused(base)


@pytest.mark.parametrize("weights", [b"", b"\x80\x04.", b"PK\x03\x04", b"no weights"])
def test_broken_weights_in_pickles_format(base, weights):
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(weights)
    assert "could not be loaded: " in refused(base)


def test_a_base_without_a_tokenizer_says_so(base):
    for path in base.glob("tokenizer*"):
        path.unlink()
    assert "the folder has no tokenizer (tokenizer_config.json)" in refused(base)


def test_both_kinds_of_base_load_as_they_are(tmp_path):
    for kind, backbone in (("bi", "deberta"), ("cross", "bert")):
        load_base(str(save_gliner(tmp_path / f"{kind} #%20?é", kind, backbone)), kind)
