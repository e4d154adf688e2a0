"""Every command that reads the hub, and the push to it, against a hub of our own; then from its cache alone."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import sentencepiece
import torch
import transformers
from gliner.config import UniEncoderSpanConfig
from gliner.model import UniEncoderSpanGLiNER
from hub_server import STRANGER, TOKEN, Hub
from tiny import ENTITIES, HIDDEN, MAX_WIDTH, MAX_WORDS, TEXT_LIMIT, TEXT_WIDTH, WORDS, enlarge_head, save_gliner

import common.demo_base
import common.hub
import common.predict
import injection_cross.test
import injection_cross.train
import ldsa.test
import ldsa.train
import zeroshot_baseline.test
from common.bases import base_revision, load_base
from common.errors import InputError
from common.export.push import push
from common.files import read_json, write_json
from common.hub import snapshot
from common.models.causal_lm import language_model_revision, load_language_model
from common.models.published import DEFAULT_BASE
from common.names.vectors import TextEncoder
from common.paths import PROJECT_ROOT
from common.script import run_script
from dataset_generation import generate
from dataset_generation.descriptions import HUB_DESCRIPTIONS
from dataset_generation.sources import BENCHMARKS, read_hub
from dataset_generation.tokens import load_tokenizer

QUICK = ["--precision", "fp32", "--device", "cpu", "--no-progress"]
FIT = [*QUICK, "--epochs", "1", "--batch-size", "8"]
DEBERTA, MINILM = "microsoft/deberta-v3-small", "sentence-transformers/all-MiniLM-L6-v2"
TYPES = {"jnlpba": ["protein", "DNA", "RNA", "cell_type", "cell_line"], "bc5cdr": ["Chemical", "Disease"]}


# -- what is on the hub -----------------------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sentences(types: list[str], count: int, seed: int) -> dict[str, list]:
    """Words and BIO tags as strings, an entity of each type in turn."""
    mentions = [mention.split() for mentions in ENTITIES.values() for mention in mentions][:-1]
    rows: dict[str, list] = {"tokens": [], "ner_tags": []}
    for number in range(count):
        mention, type_ = mentions[(number + seed) % len(mentions)], types[number % len(types)]
        before = [*WORDS[: number % 5], str(number), str(seed)]
        rows["tokens"].append([*before, *mention, "."])
        rows["ner_tags"].append(["O"] * len(before) + [f"B-{type_}"] + [f"I-{type_}"] * (len(mention) - 1) + ["O"])
    return rows


def parquet(rows: dict[str, list], features: datasets.Features | None = None) -> bytes:
    stream = io.BytesIO()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(stream)
    return stream.getvalue()


def corpus(types: list[str], splits: dict[str, int], seed: int = 0) -> dict[str, bytes]:
    """A data set as ``push_to_hub`` leaves it: a card that says which file is what, and a Parquet file a split."""
    lines = [f"  - split: {split}\n    path: data/{split}-*\n" for split in splits]
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{''.join(lines)}---\n# A corpus\n"
    files = {
        f"data/{split}-00000-of-00001.parquet": parquet(sentences(types, count, seed + place))
        for place, (split, count) in enumerate(splits.items())
    }
    return {"README.md": card.encode(), ".gitattributes": b"", **files}


def descriptions() -> dict[str, bytes]:
    names = ["protein", "DNA", "RNA", "cell type", "cell line", "chemical", "disease", "gene"]
    rows = {"entity_type": names, "description": [f"The hub's text on {name}." for name in names]}
    return {"README.md": b"---\nlicense: mit\n---\n", "data/train-00000-of-00001.parquet": parquet(rows)}


def deberta(folder: Path) -> dict[str, bytes]:
    """The text encoder's repository: a sentencepiece model, and no tokenizer.json."""
    folder.mkdir()
    texts = [*WORDS, *(mention for mentions in ENTITIES.values() for mention in mentions)] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "spm"), vocab_size=90, hard_vocab_limit=False,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
        unk_piece="[UNK]", minloglevel=2,
    )  # fmt: skip
    (folder / "spm.vocab").unlink()
    write_json(folder / "tokenizer_config.json", {"do_lower_case": False, "vocab_type": "spm"})
    write_json(folder / "config.json", {"model_type": "deberta-v2"})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.DebertaV2Config(
        vocab_size=len(tokenizer) + 9, hidden_size=TEXT_WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * TEXT_WIDTH, max_position_embeddings=TEXT_LIMIT, initializer_range=0.1, pad_token_id=0,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16, norm_rel_ebd="layer_norm",
        share_att_key=True, position_biased_input=False, type_vocab_size=0,
    )  # fmt: skip
    write_json(folder / "config.json", config.to_dict())
    return {**files_of(folder), "pytorch_model.bin": b"not wanted"}


def cross_base(folder: Path, encoder: Path) -> dict[str, bytes]:
    """As gliner_small-v2.1: weights and a configuration that leaves everything else to the encoder's repository."""
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    settings = {
        "model_name": DEBERTA, "max_width": MAX_WIDTH, "max_len": MAX_WORDS, "hidden_size": HIDDEN, "dropout": 0.1,
        "num_rnn_layers": 1, "fine_tune": True, "subtoken_pooling": "first", "span_mode": "markerV0",
    }  # fmt: skip
    config = UniEncoderSpanConfig(**settings, encoder_config=read_json(encoder / "config.json"))
    gliner = UniEncoderSpanGLiNER(config, tokenizer=tokenizer)
    tokenizer.add_tokens(gliner._get_special_tokens(), special_tokens=True)
    gliner.resize_embeddings()
    enlarge_head(gliner.model, 1.5)
    stream = io.BytesIO()
    torch.save(gliner.model.state_dict(), stream)  # noqa: TID251 - what the published models have
    published = {**settings, "ent_token": config.ent_token, "sep_token": config.sep_token, "vocab_size": -1}
    return {"gliner_config.json": json.dumps(published).encode(), "pytorch_model.bin": stream.getvalue()}


def bi_base(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """As gliner-biomed-bi-small: with a tokenizer, that of the labels in the label encoder's repository."""
    files = files_of(save_gliner(folder, "bi", "deberta"))
    labels = {name: content for name, content in files.items() if name.startswith("labels_tokenizer/")}
    # What the DeBERTa tokenizers say of their limit.
    tokenizer = json.loads(files["tokenizer_config.json"]) | {"model_max_length": int(1e30)}
    files["tokenizer_config.json"] = json.dumps(tokenizer).encode()
    config = json.loads(files["gliner_config.json"]) | {"model_name": DEBERTA, "labels_encoder": MINILM}
    own = {name: content for name, content in files.items() if name not in labels}
    own |= {"gliner_config.json": json.dumps(config).encode(), "onnx/model.onnx": b"not wanted", "README.md": b"# A"}
    encoder = {name.removeprefix("labels_tokenizer/"): content for name, content in labels.items()}
    return own, encoder | {"config.json": json.dumps(config["labels_encoder_config"]).encode()}


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, dict[str, bytes], str]]:
    """What the defaults of every command name."""
    folder = tmp_path_factory.mktemp("published")
    text_encoder = deberta(folder / "deberta")
    bi, label_encoder = bi_base(folder / "bi")
    return [
        (BENCHMARKS["jnlpba"].hub, corpus(TYPES["jnlpba"], {"train": 30, "test": 10}), "dataset"),
        (BENCHMARKS["bc5cdr"].hub, corpus(TYPES["bc5cdr"], {"train": 24, "validation": 8, "test": 8}), "dataset"),
        (HUB_DESCRIPTIONS, descriptions(), "dataset"),
        (DEFAULT_BASE["bi"], bi, "model"),
        (DEFAULT_BASE["cross"], cross_base(folder / "cross", folder / "deberta"), "model"),
        (DEBERTA, text_encoder, "model"),
        (MINILM, label_encoder, "model"),
    ]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no token, and the hub not offline."""
    constants = huggingface_hub.constants
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home" / "datasets")
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    monkeypatch.setattr(common.hub, "_silent", {})
    common.hub._warn.cache_clear()
    huggingface_hub.close_session()
    return tmp_path / "home"


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What HF_ENDPOINT does where it is set before huggingface_hub is imported."""
    constants = huggingface_hub.constants
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(published, cache, monkeypatch):
    """A running hub with all defaults."""
    hub = Hub()
    for name, files, kind in published:
        hub.add(name, files, kind)
    use(monkeypatch, hub.endpoint)
    yield hub
    hub.stop()


@pytest.fixture
def nowhere(cache, monkeypatch) -> str:
    """A hub that is not there."""
    hub = Hub()
    hub.stop()
    use(monkeypatch, hub.endpoint)
    return hub.endpoint


def gone(hub: Hub, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub any more: it is stopped, or HF_HUB_OFFLINE=1 says not to ask it."""
    hub.stop()
    if how == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


GONE = pytest.mark.parametrize("how", ["down", "offline"])


def refused(main, argv: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line that an entry script ends with."""
    with pytest.raises(SystemExit, match="2"):
        run_script(lambda: main(argv))
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    assert not any(secret in output.err + output.out for secret in (TOKEN, STRANGER, "secret"))
    lines = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert output.err.splitlines()[-1:] == lines
    return lines[0]


# -- corpora ----------------------------------------------------------------------------------------------------------


@GONE
def test_the_default_corpora_from_the_hub_and_then_from_its_cache(hub, how, tmp_path, monkeypatch, caplog):
    made = {}
    for name, descriptions in (("jnlpba", "own"), ("bc5cdr", "hub")):
        folder = tmp_path / "first" / name
        generate.main(["--dataset", name, "--descriptions", descriptions, "--output-dir", str(folder.parent)])
        made[name] = files_of(folder)
    manifest = json.loads(made["bc5cdr"]["manifest.json"])
    repository = hub.repositories["dataset", BENCHMARKS["bc5cdr"].hub]
    assert manifest["source"] == {"kind": "hub", "repository": repository.name, "commit": repository.refs["main"]}
    assert manifest["sizes"] == {"train": 24, "validation": 8, "test": 8}
    assert manifest["labels"] == ["chemical", "disease"]
    for encoder, base in DEFAULT_BASE.items():
        used = manifest["tokenizers"][encoder]
        commit = hub.repositories["model", base].refs["main"]
        assert (used["name"], used["commit"], used["fallback"]) == (base, commit, False)
    texts = json.loads(made["bc5cdr"]["label2desc.json"])
    assert texts["chemical"] == "The hub's text on chemical."
    assert json.loads(made["jnlpba"]["manifest.json"])["sizes"] == {"train": 24, "validation": 6, "test": 10}
    assert not hub.asked("pytorch_model|safetensors|onnx"), "a tokenizer needs no weights"
    assert caplog.text == ""

    hub.requests.clear()
    gone(hub, how, monkeypatch)
    for name, descriptions in (("jnlpba", "own"), ("bc5cdr", "hub")):
        folder = tmp_path / "again" / name
        generate.main(["--dataset", name, "--descriptions", descriptions, "--output-dir", str(folder.parent)])
        assert files_of(folder) == made[name]
    assert ("the copy in the cache is used" in caplog.text) == (how == "down")


def test_any_data_set_by_its_id(hub, caplog):
    tags = ["O", "B-gene", "I-gene"]
    features = datasets.Features(tokens=[datasets.Value("string")], tags=[datasets.ClassLabel(names=tags)])
    rows = [parquet({"tokens": [["p53", number, "binds"]], "tags": [[1, 2, 0]]}, features) for number in "123"]
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/a*\n  - split: test\n"
        f"    path: {name}/b*\n  - split: extra\n    path: {name}/c*\n"
        for name in ("one", "two")
    )
    names = ("a.parquet", "b.parquet", "c.parquet")
    files = {f"{part}/{name}": rows[number] for part in ("one", "two") for number, name in enumerate(names)}
    repository = hub.add("some.one/Any_Set", {"README.md": f"{card}---\n".encode(), **files}, "dataset")
    found = read_hub("some.one/Any_Set/two")
    assert [sentence.words for sentence in found.splits["test"]] == [("p53", "2", "binds")]
    assert [tuple(span) for span in found.splits["train"][0].spans] == [(0, 1, "gene")]
    assert found.origin["ignored"] == ["extra"]
    assert "splits that are not read: extra" in caplog.text
    with pytest.raises(InputError, match=r"Any_Set of the hub cannot be read: .*\['one', 'two'\].*/CONFIGURATION$"):
        read_hub("some.one/Any_Set")

    # Scripts are not run; the tables that the hub makes of one are a branch of their own.
    tables = {f"default/{split}/0000.parquet": content for split, content in zip(("train", "test"), rows, strict=False)}
    repository.commit({"Any_Set.py": b"raise SystemExit('run')"})
    repository.commit(tables, branch="refs/convert/parquet")
    assert len(read_hub("some.one/Any_Set@refs/convert/parquet").splits["train"]) == 1
    with pytest.raises(InputError, match="Any_Set of the hub cannot be read"):
        read_hub("some.one/Any_Set")


@GONE
def test_a_pinned_revision_of_a_data_set_stays_what_it_was(hub, how, monkeypatch):
    repository = hub.add("some/set", corpus(["gene"], {"train": 5, "dev": 3, "test": 2}), "dataset")
    first = repository.refs["v1"] = repository.refs["main"]
    repository.commit(corpus(["gene"], {"train": 9, "test": 2}))
    for revision in ("v1", first, first[:8]):
        pinned = read_hub(f"some/set@{revision}")
        assert pinned.origin["commit"] == first
        assert {split: len(found) for split, found in pinned.splits.items()} == {"train": 5, "validation": 3, "test": 2}
    assert len(read_hub("some/set").splits["train"]) == 9
    with pytest.raises(InputError, match="it has no revision 'v2'"):
        read_hub("some/set@v2")
    gone(hub, how, monkeypatch)
    assert read_hub("some/set@v1").splits == pinned.splits == read_hub(f"some/set@{first}").splits
    assert len(read_hub("some/set").splits["train"]) == 9
    with pytest.raises(InputError, match=r"the cache .* does not have it"):
        read_hub("some/set@v2")


def test_a_renamed_data_set_and_base_are_found_at_their_new_names(hub):
    for kind, old in (("dataset", BENCHMARKS["bc5cdr"].hub), ("model", DEFAULT_BASE["bi"])):
        moved = hub.repositories[kind, old]
        hub.repositories[kind, "new/name"] = moved
        hub.add(old, {}, kind, moved_to="new/name")
    assert len(read_hub(BENCHMARKS["bc5cdr"].hub).splits["train"]) == 24
    assert load_base(DEFAULT_BASE["bi"], "bi").revision == moved.refs["main"]


def test_what_is_no_data_set(hub):
    hub.add("some/empty", {"README.md": b"# Nothing\n"}, "dataset")
    hub.add("some/broken", corpus(["gene"], {"train": 1, "test": 1}) | {"data/train-1.parquet": b"PAR1 no"}, "dataset")
    hub.add("some/card", {"README.md": b"---\nconfigs: [\n---\n", "train.csv": b"a,b\n1,2\n"}, "dataset")
    hub.add("some/twice", corpus(["gene"], {"train": 2, "dev": 1, "valid": 1, "test": 1}), "dataset")
    for name in ("empty", "broken", "card"):
        with pytest.raises(InputError, match=f"some/{name} of the hub cannot be read: .*") as caught:
            read_hub(f"some/{name}")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"some/twice: two splits for validation: (dev and valid|valid and dev)"):
        read_hub("some/twice")


# -- base models ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bc5cdr(hub, tmp_path) -> str:
    """The data set of that name, made from the hub."""
    generate.main(["--dataset", "bc5cdr", "--output-dir", str(tmp_path / "data")])
    hub.requests.clear()
    return str(tmp_path / "data" / "bc5cdr")


def found_by(result: Path) -> bytes:
    """The predictions beside a result."""
    return result.with_name(f"{result.stem}_predictions.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("script", "kind"), [(ldsa, "bi"), (injection_cross, "cross")])
def test_the_default_base_of_each_kind_trains_and_is_found_again(hub, script, kind, bc5cdr, output, monkeypatch):
    script.train.main(["--dataset", bc5cdr, *FIT])
    base = hub.repositories["model", DEFAULT_BASE[kind]]
    commit = base.refs["main"]
    (run,) = (output / script.__name__).rglob("run.json")
    record = read_json(run)
    assert record["base_model"] == {
        "name": base.name, "revision": commit, "kind": kind, "source": base.name,
    }  # fmt: skip
    assert not hub.asked("onnx"), "only what is needed is loaded"
    large = [request for request in hub.requests if request.path.startswith("/objects/")]
    assert large
    # The base moves on; the checkpoint's commit is still what it is tested on.
    base.commit(base.commits[commit] | {"README.md": b"# Newer"})
    assert base_revision(base.name) == base.refs["main"] != commit
    first = script.test.main(["--dataset", bc5cdr, *QUICK])
    for how in ("down", "offline"):
        gone(hub, how, monkeypatch)
        again = script.test.main(["--dataset", bc5cdr, *QUICK])
        assert found_by(again) == found_by(first)
        assert read_json(again)["base_model"]["revision"] == commit
        hub.start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    common.hub._silent.clear()
    write_json(run, record | {"status": "interrupted"})
    with pytest.raises(InputError, match=rf"the base model's weights \(--base-model {base.name}@{commit}\)"):
        script.train.main(["--dataset", bc5cdr, *FIT, "--resume", "latest"])


def test_a_base_at_a_revision(hub, bc5cdr):
    base = hub.repositories["model", DEFAULT_BASE["cross"]]
    old = base.refs["v1"] = base.refs["main"]
    base.commit(base.commits[old] | {"README.md": b"# Newer"})
    for source in (f"{base.name}@v1", f"{base.name}@{old}"):
        loaded = load_base(source, "cross")
        assert (loaded.name, loaded.location, loaded.revision) == (base.name, base.name, old)
        assert base_revision(source) == old
    assert load_base(base.name, "cross", old).revision == old
    assert load_base(base.name, "cross").revision == base.refs["main"]
    options = ["--base-model", f"{base.name}@v1", "--encoder", "cross", *QUICK]
    result = read_json(zeroshot_baseline.test.main(["--dataset", bc5cdr, *options]))
    assert result["base_model"] == {"name": base.name, "revision": old, "kind": "cross"}


def test_weights_are_loaded_once_and_of_two_kinds_the_safe_one(hub):
    base = hub.repositories["model", DEFAULT_BASE["bi"]]
    base.commit(base.commits[base.refs["main"]] | {"pytorch_model.bin": b"not wanted"})
    load_base(base.name, "bi")
    load_base(base.name, "bi")
    assert len(hub.asked("GET /objects/.*safetensors")) == 1
    assert not hub.asked("GET /objects/.*bin")


def test_a_base_that_names_code_is_refused_before_its_weights_are_loaded(hub):
    base = hub.repositories["model", DEFAULT_BASE["bi"]]
    files = base.commits[base.refs["main"]]
    config = json.loads(files["gliner_config.json"])
    config["encoder_config"]["auto_map"] = {"AutoModel": "code.Model"}
    base.commit(files | {"gliner_config.json": json.dumps(config).encode(), "code.py": b"raise SystemExit"})
    with pytest.raises(InputError, match="names code to be run"):
        load_base(base.name, "bi")
    assert not hub.asked(r"safetensors|code\.py")


def test_prediction_with_a_model_of_the_hub(hub, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text("IL-2 binds T cells after acute liver failure.")
    output = tmp_path / "tagged.jsonl"
    arguments = ["--input", str(source), "--output", str(output), *QUICK]
    asked = ["--labels", "protein", "disease", "--threshold", "0.01"]
    common.predict.main(["--model", DEFAULT_BASE["bi"], *asked, *arguments])
    (tagged,) = map(json.loads, output.read_text("utf-8").splitlines())
    assert tagged["entities"]

    # One that was exported and pushed says itself what to ask it for.
    base = hub.repositories["model", DEFAULT_BASE["bi"]]
    known = {"labels": {"protein": "a protein"}, "threshold": 0.01}
    hub.add("some/export", base.commits[base.refs["main"]] | {"adaptation.json": json.dumps(known).encode()})
    output.unlink()
    common.predict.main(["--model", "some/export", *arguments])
    (tagged,) = map(json.loads, output.read_text("utf-8").splitlines())
    assert {entity["label"] for entity in tagged["entities"]} == {"protein"}


# -- pushing ----------------------------------------------------------------------------------------------------------


def test_a_pushed_folder_is_loaded_as_it_was(hub, gliner_folder, monkeypatch):
    folder = gliner_folder("bi-bert")
    api = huggingface_hub.HfApi()
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="401"):
        api.create_repo("someone/adapted", private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert str(api.create_repo("someone/adapted", private=True)) == f"{hub.endpoint}/someone/adapted"
    api.create_repo("someone/adapted", exist_ok=True)
    commit = api.upload_folder(repo_id="someone/adapted", folder_path=folder, commit_message="The model").oid
    repository = hub.repositories["model", "someone/adapted"]
    assert repository.private
    assert repository.commits[commit] == {".gitattributes": b"", **files_of(folder)}
    pushed = load_base("someone/adapted", "bi")
    assert pushed.revision == commit
    local = load_base(str(folder), "bi").core.state_dict()
    assert all(tensor.equal(local[name]) for name, tensor in pushed.core.state_dict().items())
    assert all(request.authorization is None for request in hub.requests if request.host.startswith("localhost"))


def test_a_push_leaves_no_graph_of_other_weights(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("model.safetensors", "model.onnx", "onnx_report.json"):
        (tmp_path / name).write_text("old")
    push(tmp_path, "someone/adapted", private=False)
    huggingface_hub.HfApi().upload_file(
        path_or_fileobj=b"theirs", path_in_repo="note.onnx.md", repo_id="someone/adapted"
    )
    (tmp_path / "model.safetensors").write_text("new")
    (tmp_path / "model.onnx").unlink()
    (tmp_path / "onnx_report.json").unlink()
    push(tmp_path, "someone/adapted", private=False)
    repository = hub.repositories["model", "someone/adapted"]
    assert repository.commits[repository.refs["main"]] == {
        ".gitattributes": b"",
        "model.safetensors": b"new",
        "note.onnx.md": b"theirs",
    }


# -- what goes wrong --------------------------------------------------------------------------------------------------

PRIVATE = "has no such repository, or it is private: a token that may read it is given as HF_TOKEN="
GATED = "it is gated: ask for access at {endpoint}/{page}, then give your token, HF_TOKEN=..."
FAULTS = {
    "missing": ({}, None, PRIVATE),
    "missing, with a token": ({}, TOKEN, PRIVATE),
    "private": ({"private": True}, None, PRIVATE),
    "private, wrong token": ({"private": True}, STRANGER, PRIVATE),
    "gated": ({"gated": True}, None, GATED),
    "gated, no access": ({"gated": True}, STRANGER, GATED),
    "a token that is none": ({"gated": False}, "hf_none", "answers 401: the token (HF_TOKEN) is not valid"),
    "a token that cannot be sent": ({"gated": False}, "hf_\x0bsecret", "the token (HF_TOKEN) holds characters that no"),
    "moved to nowhere": ({"moved_to": "new/gone"}, None, PRIVATE),
    "moved in a circle": ({"moved_to": ""}, None, "redirect"),
    "short": ({"broken": "short"}, None, "Consistency check failed: file should be of size"),
    "out of order": ({"broken": "503"}, None, "answers 503: try again later"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_what_cannot_be_had_is_one_line(hub, fault, kind, monkeypatch, tmp_path, dataset_path, capsys):
    settings, token, message = FAULTS[fault]
    name = BENCHMARKS["bc5cdr"].hub if kind == "dataset" else DEFAULT_BASE["bi"]
    settings = dict(settings)
    if "broken" in settings:
        hub.broken["test-00000-of-00001.parquet" if kind == "dataset" else "model.safetensors"] = settings["broken"]
    elif not settings:
        del hub.repositories[kind, name]
    else:
        repository = hub.repositories[kind, name]
        for key, value in settings.items():
            setattr(repository, key, name if value == "" else value)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    if kind == "dataset":
        line = refused(generate.main, ["--dataset", "bc5cdr", "--output-dir", str(tmp_path)], capsys)
        assert line.startswith(f"error: cannot load {name} from the hub: ")
        assert line.endswith("Else give the corpus as files with --source PATH, or use a demo corpus (demo-...)")
        assert not (tmp_path / "bc5cdr").exists()
    else:
        line = refused(zeroshot_baseline.test.main, ["--dataset", str(dataset_path), *QUICK], capsys)
        assert line.startswith(f"error: base model '{name}' could not be loaded: ")
        assert "or one of ['demo-bi', 'demo-cross'] as --base-model" in line
    page = f"datasets/{name}" if kind == "dataset" else name
    assert message.format(endpoint=hub.endpoint, page=page) in line


def test_a_download_that_breaks_off_goes_on_with_the_same_command(hub, dataset_path, monkeypatch, capsys):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.broken["model.safetensors"] = "cut"
    line = refused(zeroshot_baseline.test.main, ["--dataset", str(dataset_path), *QUICK], capsys)
    assert "the download broke off (peer closed connection" in line
    hub.broken.clear()
    hub.requests.clear()
    assert load_base(DEFAULT_BASE["bi"], "bi").kind == "bi"


def test_a_token_opens_what_is_private(hub, monkeypatch):
    for kind, name in (("dataset", BENCHMARKS["bc5cdr"].hub), ("model", DEFAULT_BASE["bi"])):
        hub.repositories[kind, name].private = True
    hub.repositories["model", DEFAULT_BASE["cross"]].gated = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read_hub(BENCHMARKS["bc5cdr"].hub).splits["train"]
    assert [load_base(DEFAULT_BASE[kind], kind).kind for kind in ("bi", "cross")] == ["bi", "cross"]
    assert {request.authorization for request in hub.asked("/objects/")} == {None}


def test_an_encoder_that_cannot_be_had_is_named(hub):
    hub.repositories["model", DEBERTA].gated = True
    with pytest.raises(InputError, match=f"it has no configuration .*'{DEBERTA}' is not available: it is gated"):
        load_base(DEFAULT_BASE["cross"], "cross")
    with pytest.raises(InputError, match=f"tokenizer '{DEBERTA}' cannot be loaded: it is gated"):
        load_tokenizer(DEFAULT_BASE["cross"], "cross")
    del hub.repositories["model", MINILM]
    with pytest.raises(InputError, match=rf"it has no tokenizer .*'{MINILM}' is not available: .*no such repository"):
        load_base(DEFAULT_BASE["bi"], "bi")


@GONE
def test_the_commit_of_a_base_is_asked_for_and_else_the_one_in_the_cache(hub, how, monkeypatch):
    base = hub.repositories["model", DEFAULT_BASE["bi"]]
    commit = load_base(base.name, "bi").revision
    base.commit(base.commits[commit] | {"README.md": b"# Newer"})
    assert base_revision(base.name) == base.refs["main"] != commit
    gone(hub, how, monkeypatch)
    assert base_revision(base.name) == load_base(base.name, "bi").revision == commit
    with pytest.raises(InputError, match=r"base model 'no/base' could not be loaded: .*the cache .* does not have it"):
        base_revision("no/base")


def test_what_the_hub_refuses_now_the_cache_still_has(hub, caplog):
    name = DEFAULT_BASE["bi"]
    commit = load_base(name, "bi").revision
    hub.repositories["model", name].private = True
    assert load_base(name, "bi").revision == commit
    assert caplog.text.count("it is private") == 1
    assert f"the copy in the cache is used, commit {commit}" in caplog.text


def test_without_hub_and_package_the_demo_bases_say_what_brings_their_encoder(hub, monkeypatch):
    monkeypatch.setattr(common.demo_base, "packaged_minilm", lambda: None)
    del hub.repositories["model", MINILM]
    with pytest.raises(
        InputError, match=rf"need the encoder {MINILM}: .*no such repository.*pip install -e '\.\[demo\]'"
    ):
        common.demo_base.encoder_dir()


def test_a_copy_in_the_cache_that_is_not_whole_is_not_used(hub, monkeypatch):
    snapshot(DEFAULT_BASE["bi"], ["*.json"])
    gone(hub, "down", monkeypatch)
    with pytest.raises(InputError, match=r"does not answer .*, and the cache .* does not have it"):
        load_base(DEFAULT_BASE["bi"], "bi")


def test_a_cache_that_cannot_be_written_is_said(hub):
    place = Path(huggingface_hub.constants.HF_HUB_CACHE)
    place.parent.mkdir()
    place.touch()
    with pytest.raises(InputError, match=rf"the cache cannot be written: {place}.*; HF_HOME can name another place"):
        load_base(DEFAULT_BASE["bi"], "bi")


def test_a_hub_that_never_answers_is_given_up(cache, monkeypatch, dataset_path, capsys):
    monkeypatch.setattr(common.hub, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        line = refused(zeroshot_baseline.test.main, ["--dataset", str(dataset_path), *QUICK], capsys)
    assert "does not answer (timed out; HF_ENDPOINT can name a mirror), and the cache (" in line


def test_a_mirrors_password_is_shown_nowhere(hub, monkeypatch):
    use(monkeypatch, hub.endpoint.replace("//", "//me:s3cret@"))
    for message in ("answers 401", "does not answer"):
        with pytest.raises(InputError, match=rf"//me:\*\*\*@127\.0\.0\.1:\d+ {message}") as caught:
            snapshot("no/thing", ["*.json"])
        assert "s3cret" not in str(caught.value)
        hub.stop()


DEFAULTS = {
    "dataset_generation.generate": ["--dataset", "jnlpba"],
    "zeroshot_baseline.test": ["--dataset", "{data}", *QUICK],
    "ldsa.train": ["--dataset", "{data}", *FIT],
    "injection_cross.train": ["--dataset", "{data}", *FIT],
    "common.predict": [
        "--model",
        DEFAULT_BASE["cross"],
        "--labels",
        "a",
        "--input",
        "{text}",
        "--output",
        "{out}.jsonl",
    ],
}


@pytest.mark.parametrize("script", DEFAULTS)
def test_without_the_hub_each_default_is_one_line_that_names_the_way_out(
    nowhere, script, dataset_path, tmp_path, capsys
):
    (tmp_path / "text.txt").write_text("Some text.")
    places = {"data": dataset_path, "text": tmp_path / "text.txt", "out": tmp_path / "out.jsonl"}
    argv = [argument.format(**places) for argument in DEFAULTS[script]]
    line = refused(__import__(script, fromlist=["main"]).main, argv, capsys)
    assert f"{nowhere} does not answer" in line
    assert "HF_ENDPOINT can name a mirror" in line
    assert "the cache (" in line
    assert "demo-" in line
    assert "--source PATH" in line or "--base-model" in line


@pytest.mark.processes
def test_processes_read_the_endpoint_and_the_cache_from_the_environment(published, tmp_path):
    hub = Hub()
    for name, files, kind in published:
        hub.add(name, files, kind)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))},
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1,localhost",
        "GLINER_ADAPTATION_OUTPUT": str(tmp_path / "out"),
    }  # fmt: skip

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(
            command, cwd=PROJECT_ROOT, env=environment | more, capture_output=True, text=True, timeout=120, check=False
        )

    made = run("dataset_generation.generate", "--dataset", "bc5cdr", "--descriptions", "hub")
    assert made.returncode == 0, made.stderr
    manifest = read_json(tmp_path / "out" / "datasets" / "bc5cdr" / "manifest.json")
    assert [tokenizer["fallback"] for tokenizer in manifest["tokenizers"].values()] == [False, False]
    hub.stop()
    refused = run("dataset_generation.generate", "--dataset", "jnlpba")
    assert refused.returncode == 2
    *_, line = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"{hub.endpoint} does not answer" in line
    assert f"the cache ({tmp_path / 'home'}" in line


# -- language models and encoders of names ----------------------------------------------------------------------------


@GONE
def test_a_language_model_comes_from_the_hub_and_then_from_its_cache(hub, how, tmp_path, gliner_folder, monkeypatch):
    local = load_language_model(str(gliner_folder("causal-llama")), "causal")
    local.network(output_layer=True).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    local.tokenizer.save_pretrained(tmp_path / "parts")
    unwanted = {"consolidated.safetensors": b"not wanted", "pytorch_model.bin": b"not wanted"}
    repository = hub.add("owner/llama", files_of(tmp_path / "parts") | unwanted)
    ids = torch.tensor([[5, 6, 7]])
    wanted = local.network(output_layer=True)(ids).logits
    for _ in range(2):
        base = load_language_model("owner/llama", "causal")
        assert (base.name, base.location, base.revision) == ("owner/llama", "owner/llama", repository.refs["main"])
        assert language_model_revision("owner/llama") == base.revision
        assert hub.asked("safetensors$|bin$") == []
        assert torch.equal(base.network(output_layer=True)(ids).logits, wanted)
        assert not hub.asked("consolidated|bin$")
        hub.requests.clear()
        gone(hub, how, monkeypatch)
    assert language_model_revision(f"owner/llama@{base.revision}") == base.revision


def test_a_language_model_without_safe_weights_is_refused(hub, gliner_folder):
    files = files_of(gliner_folder("causal-llama"))
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    hub.add("owner/old", files)
    with pytest.raises(InputError, match=r"has no weights in safetensors \(model\.safetensors\)"):
        load_language_model("owner/old", "causal").network(output_layer=True)


def test_an_encoder_of_names_comes_from_the_hub(hub, tiny_encoder):
    hub.add("owner/names", files_of(tiny_encoder) | {"flax_model.msgpack": b"not wanted"})
    local = TextEncoder.load(str(tiny_encoder), "cls", "cpu")
    assert TextEncoder.load("owner/names", "cls", "cpu").revision == local.revision
    assert not hub.asked("msgpack|bin$")
