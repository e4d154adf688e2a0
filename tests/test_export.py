"""Exports: the model card says what is true, the ONNX graph scores as the model does, and the hub gets the folder."""

import logging
import re

import httpx
import pytest
import torch
from gliner import GLiNER
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file
from tiny import LABELS, QUICK, RUNTIME, set_threshold

import full_finetune.spec
import glinerev.export
import glinerev.spec
from common.checkpoint import load_checkpoint
from common.entry import ExportConfig, export, run_test
from common.errors import InputError
from common.evaluation.results import read_result
from common.files import read_json, write_json
from common.inference import Tagger
from common.training.records import RUN_FILE

pytestmark = pytest.mark.slow

SP, FT = glinerev.spec.SPEC, full_finetune.spec.SPEC
TOKEN = "hf_thisisasecret"


@pytest.fixture
def run(trial):
    """A run with thresholds of its own for two types; random as the model is, it finds spans of both."""
    made = trial(FT, "bi-bert", train={"epochs": 1})
    _, run = made.train()
    run.update(threshold=0.3, type_thresholds={"disease": 0.2, "cell type": 0.25})
    return run.path


def exported(path, folder, **options):
    spec = FT if read_json(path / RUN_FILE)["approach"] == "full_finetune" else SP
    return export(spec, ExportConfig(folder, str(path), **options))


# -- the model card ---------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_model_is(run, tmp_path, dataset_path):
    result = read_result(run_test(FT, ["--dataset", str(dataset_path), *QUICK]))
    exported(run, tmp_path / "plain", data_license="CC BY | 3.0")
    card = ModelCard.load(tmp_path / "plain" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("gliner", "token-classification")
    assert card.data.base_model is None, "a folder of this machine is no model of the hub"
    figures = {item.metric_name: item.metric_value for item in card.data.eval_results}
    assert figures == {
        "micro F1, exact match": result["scores"]["micro"]["f1"],
        "macro F1, exact match": result["scores"]["macro"]["f1"],
    }
    assert {(item.dataset_name, item.dataset_split) for item in card.data.eval_results} == {("tiny", "test")}
    low, high = result["intervals"]["macro_f1"]
    assert f"| **macro** | {result['scores']['macro']['precision']:.4f} |" in card.text
    assert f"| {result['scores']['macro']['f1']:.4f} | [{low:.4f}, {high:.4f}] |" in card.text
    for name, text, threshold in zip(LABELS.names, LABELS.descriptions, (0.3, 0.25, 0.2), strict=True):
        assert f"| {name} | {name} | {threshold:.2f} | {text} |" in card.text
    assert "bi-bert" in card.text
    assert "CC BY \\| 3.0" in card.text
    assert read_json(run / RUN_FILE)["dataset"]["sha256"] in card.text
    assert str(tmp_path) not in str(card), "no path of the machine"


def test_the_cards_code_finds_what_our_model_does(run, tmp_path, monkeypatch):
    exported(run, tmp_path / "plain")
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "plain" / "README.md").read_text("utf-8"), re.S)
    # gliner's own splitter makes other words of it.
    text = "monocytes of patients with p53-mdm2 fever, IL-2-induced, in the liver"
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.replace('"Text."', repr(text)), names)  # noqa: S102 - the code is the card's
    found = {(item["text"], item["label"]) for item in names["entities"]}
    tagger = Tagger.load(tmp_path / "plain", runtime=RUNTIME)
    assert (tagger.threshold, tagger.type_thresholds) == (0.3, {"disease": 0.2, "cell type": 0.25})
    assert names["thresholds"] == {"protein": 0.3, "cell type": 0.25, "disease": 0.2}
    entities = tagger.tag([text])[0]
    assert found == {(item.text, item.label) for item in entities}
    assert entities
    assert entities == Tagger.load(run, runtime=RUNTIME).tag([text])[0]


def test_an_export_of_before_has_one_threshold(run, tmp_path):
    folder = exported(run, tmp_path / "plain")
    about = read_json(folder / "adaptation.json")
    del about["thresholds"]
    write_json(folder / "adaptation.json", about)
    tagger = Tagger.load(folder, runtime=RUNTIME)
    assert (tagger.threshold, tagger.type_thresholds) == (0.3, {})
    for wrong, message in (
        ({"threshold": 2}, "threshold must be between 0 and 1, got 2"),
        ({"thresholds": {"protein": "x"}}, "thresholds.protein must be a number, got 'x'"),
        ({"labels": ["protein"]}, "labels must be an object"),
    ):
        write_json(folder / "adaptation.json", about | wrong)
        with pytest.raises(InputError, match=message):
            Tagger.load(folder, runtime=RUNTIME)


def test_figures_are_of_this_model_alone(run, tmp_path, dataset_path):
    exported(run, tmp_path / "untested")
    assert "exported before it was tested" in (tmp_path / "untested" / "README.md").read_text("utf-8")
    # Other thresholds than those that are exported, then another split.
    options = ["--dataset", str(dataset_path), *QUICK]
    other = run_test(FT, [*options, "--threshold", "0.1"])
    run_test(FT, [*options, "--split", "validation"])
    exported(run, tmp_path / "still")
    card = ModelCard.load(tmp_path / "still" / "README.md")
    assert card.data.eval_results is None
    assert "before it was tested" in card.text
    with pytest.raises(InputError, match=f"--result {other}: is no result of"):
        exported(run, tmp_path / "other", result=other)
    assert not (tmp_path / "other").exists()
    own = run_test(FT, options)
    exported(run, tmp_path / "model_1", result=own)
    exported(run, tmp_path / "model_2")
    named, found = (
        (tmp_path / name / "README.md").read_text("utf-8").replace(name, "X") for name in ("model_1", "model_2")
    )
    assert named == found
    assert "model-index" in found


# -- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "base", "settings"),
    [
        (SP, "bi-bert", {"downstream_lr": 1e-2}),
        (SP, "bi-bert", {"subword_pooling": "max", "downstream_lr": 1e-2}),
        (FT, "cross-bert", {"encoder": "cross"}),
        (FT, "bi-deberta", {}),
    ],
    ids=["mean", "max", "cross", "deberta"],
)
def test_a_graph_scores_as_its_model(trial, tmp_path, spec, base, settings):
    pytest.importorskip("onnxruntime")
    made = trial(spec, base, train={"epochs": 1}, **settings)
    model, run = made.train()
    set_threshold(model, made.data.test)
    run.update(threshold=model.threshold)
    folder = exported(run.path, tmp_path / "plain", onnx=True)
    report = read_json(folder / "onnx_report.json")
    assert report["sentences"] == len(made.data.test)
    assert report["largest_difference"] < 1e-4
    assert report["predicted_otherwise"] == 0
    assert report["f1"] == report["f1_onnx"]
    assert "`model.onnx` gives each span of 16 test sentences" in (folder / "README.md").read_text("utf-8")

    # By gliner alone, on texts of several lengths, also asked for labels that it was not trained on.
    words = "IL-2 fever monocytes patients binds the of".split()  # noqa: SIM905
    texts = [" ".join(words[: 1 + index % len(words)] * (1 + index // 3)) for index in range(8)]
    graph = GLiNER.from_pretrained(str(folder), load_onnx_model=True, local_files_only=True)
    plain = GLiNER.from_pretrained(str(folder), local_files_only=True)
    for labels in (list(LABELS.names), ["organ"], ["a", "long name of a type", "b", "c"]):
        ours, theirs = (
            [side.predict_entities(text, labels, threshold=0.0) for text in texts] for side in (plain, graph)
        )
        assert all(ours)
        for left, right in zip(ours, theirs, strict=True):
            assert [item["text"] for item in left] == [item["text"] for item in right]
            assert [item["score"] for item in left] == pytest.approx([item["score"] for item in right], abs=1e-4)


def test_another_models_graph_is_seen(trial, tmp_path, caplog):
    onnxruntime = pytest.importorskip("onnxruntime")
    from common.export.onnx import compare

    made = trial(SP, "bi-bert", train={"epochs": 1}, downstream_lr=1e-2)
    _, run = made.train()
    folder = exported(run.path, tmp_path / "plain", onnx=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    other = made.model()
    set_threshold(other, made.data.test)
    with caplog.at_level(logging.WARNING):
        report = compare(other, session, made.data.test)
    assert report["largest_difference"] > 0.01
    assert report["predicted_otherwise"] > 0
    assert "16 sentences predicted otherwise" in caplog.text


def test_what_onnx_needs(run, tmp_path, monkeypatch, dataset_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--onnx: not installed: onnx, onnxruntime; install the extra onnx"):
        exported(run, tmp_path / "plain", onnx=True)
    monkeypatch.undo()
    record = read_json(run / RUN_FILE)
    record["config"]["data"]["dataset"] = "gone"
    write_json(run / RUN_FILE, record)
    with pytest.raises(InputError, match="data set 'gone' does not exist"):
        exported(run, tmp_path / "plain", onnx=True)
    assert not (tmp_path / "plain").exists()


# -- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A hub that takes everything; what it was sent."""
    sent: list = []

    def create_repo(self, repo_id, **options):
        sent.append((repo_id, options))
        return type("Url", (), {"repo_id": repo_id})()

    def upload_folder(self, *, repo_id, folder_path, **_):
        sent.append((repo_id, sorted(path.name for path in folder_path.iterdir())))

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("common.export.checks.hub_problem", lambda: None)
    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return sent


def test_push(run, tmp_path, hub):
    folder = exported(run, tmp_path / "plain", push_to_hub="me/my-model", private=True)
    names = sorted(path.name for path in folder.iterdir())
    assert hub == [("me/my-model", {"exist_ok": True, "private": True}), ("me/my-model", names)]
    assert {"README.md", "model.safetensors", "adaptation.json"} <= set(names)
    card = (folder / "README.md").read_text("utf-8")
    assert "GLiNER.from_pretrained('me/my-model')" in card
    assert card.count("\n# my-model\n") == 1
    assert not [path for path in folder.rglob("*.*") if TOKEN.encode() in path.read_bytes()]
    exported(run, tmp_path / "public", push_to_hub="me/other")
    assert hub[2] == ("me/other", {"exist_ok": True, "private": None})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            HfHubHTTPError(
                "403 Forbidden:\n\n", response=httpx.Response(403, request=httpx.Request("POST", "https://h"))
            ),
            "answers 403: the token (HF_TOKEN) has no permission",
        ),
        # Its message shows the header, and the token with it.
        (httpx.LocalProtocolError(f"Illegal header value b'Bearer {TOKEN}'"), "holds characters that no token has"),
        (httpx.ReadTimeout("no answer\nfor long"), "the upload broke off (no answer for long)"),
    ],
    ids=["refused", "odd token", "broken off"],
)
def test_a_hub_that_refuses(run, tmp_path, hub, monkeypatch, error, reason):
    def refuse(self, repo_id, **_):
        raise error

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    folder = tmp_path / "plain"
    with pytest.raises(InputError) as caught:
        exported(run, folder, push_to_hub="me/my-model")
    message = str(caught.value)
    assert message.startswith("--push-to-hub me/my-model: ")
    assert reason in message
    assert message.endswith(f"; the model is in {folder}: hf upload me/my-model {folder}")
    assert "\n" not in message
    assert TOKEN not in message
    assert (folder / "model.safetensors").is_file(), "the export is done, and kept"


def test_what_a_push_needs(run, tmp_path, hub, monkeypatch):
    for name in ("a/b/c", "white space", ".x"):
        with pytest.raises(InputError, match="--push-to-hub '"):
            exported(run, tmp_path / "plain", push_to_hub=name)
    monkeypatch.setattr("common.export.checks.hub_problem", lambda: "https://hub does not answer")
    with pytest.raises(InputError, match="--push-to-hub: https://hub does not answer"):
        exported(run, tmp_path / "plain", push_to_hub="me/my-model")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="--push-to-hub: no token; set HF_TOKEN, or log in once with: hf auth login"):
        exported(run, tmp_path / "plain", push_to_hub="me/my-model")
    assert hub == []
    assert not (tmp_path / "plain").exists(), "nothing was written in vain"


def test_a_model_on_the_hub_is_the_cards_base(run, tmp_path):
    from common.export.card import model_card

    checkpoint = load_checkpoint(FT, run)
    checkpoint.record["base_model"] |= {"name": "urchade/gliner_small-v2.1", "revision": "a" * 40}
    thresholds = dict.fromkeys(LABELS.names, 0.5)
    text = model_card(checkpoint, thresholds, "plain", None, None, None)
    assert ModelCard(text).data.base_model == "urchade/gliner_small-v2.1"
    assert "licence of the training data was not given" in text


def test_exported_weights_are_those_of_the_run(run, tmp_path):
    folder = exported(run, tmp_path / "plain")
    assert (folder / "model.safetensors").stat().st_mode == (folder / "README.md").stat().st_mode
    weights = load_file(folder / "model.safetensors")
    for name, tensor in load_file(run / "trainable.safetensors").items():
        torch.testing.assert_close(weights[name.removeprefix("core.")], tensor)
