"""Memory computed from a configuration, against what torch keeps for a backward pass and for generation."""

import json

import pytest
import torch
from tiny import save_llama

from common.approach import freeze_all_but
from common.errors import InputError
from common.models import memory
from common.models.adapters import add_lora, lora_part, set_adapter_dropout
from common.models.causal_lm import load_language_model
from common.models.config import LoraConfig

ROWS, TOKENS = 2, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Wide enough that what does not grow with the width is little."""
    return save_llama(
        tmp_path_factory.mktemp("llama") / "base", hidden_size=128, intermediate_size=344, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip


def adapted(folder, adapters, output_layer=False, quantization="none"):
    """The network with adapters, in the mode of training."""
    network = load_language_model(str(folder), None).network(output_layer=output_layer, quantization=quantization)
    add_lora(network, adapters)
    part = lora_part(network, 1e-3)
    freeze_all_but(network, [part])
    set_adapter_dropout(network, True)
    return network


def kept_for_backward(network, **inputs):
    """Bytes of the tensors that a forward pass keeps, without weights, each storage once; and its output."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # Keeps it alive, so that no other tensor takes its place.
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(use_cache=False, **inputs)
    return sum(storage.nbytes() for storage in found.values()), output


@pytest.mark.parametrize(
    "adapters",
    [
        LoraConfig(rank=4, dropout=0.1),
        LoraConfig(rank=4, dropout=0.0),
        LoraConfig(rank=4, dropout=0.1, modules=("q_proj", "v_proj")),
        LoraConfig(rank=4, dropout=0.1, modules=("q_proj", "k_proj", "v_proj", "o_proj")),
    ],
)
def test_activations_are_about_those_that_torch_keeps(folder, adapters):
    network = adapted(folder, adapters)
    ids = torch.randint(5, 100, (ROWS, TOKENS))
    attended = torch.ones_like(ids)
    attended[0, -5:] = 0
    kept, _ = kept_for_backward(network, input_ids=ids, attention_mask=attended)
    found = memory.training(memory.shape_of(str(folder)), adapters, rows=ROWS, tokens=TOKENS, size=4, mask=4)
    assert found.activations == pytest.approx(kept, rel=0.05)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_weights_and_adapters_are_those_of_the_model(folder, quantization):
    if quantization == "nf4":
        pytest.importorskip("bitsandbytes")
    adapters = LoraConfig(rank=4)
    network = adapted(folder, adapters, output_layer=True, quantization=quantization)
    found = memory.weights(memory.shape_of(str(folder)), adapters, quantization, 4, output=True)
    trained = sum(p.nbytes for p in network.parameters() if p.requires_grad)
    frozen = sum(p.nbytes for p in network.parameters() if not p.requires_grad)
    assert found.adapters == trained
    for parameter in network.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            frozen += state.absmax.nbytes + state.state2.absmax.nbytes
    assert found.weights == pytest.approx(frozen, rel=0 if quantization == "none" else 1e-3)


def test_checkpointing_keeps_the_inputs_of_blocks(folder):
    adapters = LoraConfig(rank=4, dropout=0.0)
    network = adapted(folder, adapters)
    network.gradient_checkpointing_enable({"use_reentrant": False})
    for module in network.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
    kept, _ = kept_for_backward(network, input_ids=torch.randint(5, 100, (ROWS, TOKENS)))
    shape = memory.shape_of(str(folder))
    plain, again = (
        memory.training(shape, adapters, rows=ROWS, tokens=TOKENS, size=4, checkpointing=on).activations
        for on in (False, True)
    )
    # What is computed again is there for one block at a time, in the backward pass.
    assert again - plain / shape.num_hidden_layers == pytest.approx(kept, rel=0.35)


def test_keys_and_values_are_those_of_the_cache(folder):
    network = adapted(folder, LoraConfig(rank=4), output_layer=True).eval()
    with torch.no_grad():
        cache = network(torch.randint(5, 100, (ROWS, TOKENS)), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    shape = memory.shape_of(str(folder))
    found = memory.inference(shape, LoraConfig(rank=4), rows=ROWS, tokens=TOKENS, answer=3, size=4)
    assert found.cache == held
    assert memory.inference(shape, LoraConfig(rank=4), rows=ROWS, tokens=TOKENS).cache == 0


def test_published_shapes_have_their_published_numbers_of_weights():
    billions = [
        memory.weights(shape, LoraConfig(), "none", 1, output=True).weights / 1e9 for shape in memory.PUBLISHED.values()
    ]
    assert billions == pytest.approx([6.738, 13.016, 8.030], abs=0.001)


def test_the_table_says_what_fits_and_goes_into_a_document(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- memory -->\n<!-- /memory -->\nb\n", "utf-8")
    text = memory.main(["--rows", "64", "--tokens", "256", "--optimizer", "adamw_8bit", "--output", str(page)])
    assert text in page.read_text("utf-8")
    assert capsys.readouterr().out == text
    lines = [line for line in text.splitlines() if line.startswith("| meta-llama/Llama-2-13b-hf")]
    assert [line.split("|")[-2].strip() for line in lines] == ["too large", "fits", "fits"]
    for line in lines:
        *parts, whole = map(float, line.split("|")[3:-2])
        assert sum(parts) == pytest.approx(whole, abs=0.03)


def test_what_is_no_llama_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        memory.main(["--base-model", str(tmp_path)])
    with pytest.raises(InputError, match="answer must be from 0"):
        memory.main(["--answer", "128"])
    # They would count as no adapters at all.
    with pytest.raises(InputError, match=r"--modules: \['q_prj'\]: the layers of a Llama's blocks are \['q_proj', "):
        memory.main(["--modules", "q_prj", "v_proj"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "4"}, "hidden_size must be a whole number, got '4'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be between 1 and 2.32, got 0"),
        ({"num_key_value_heads": -2}, "num_key_value_heads must be between 1 and 2.32, got -2"),
        ({"vocab_size": 10**400}, "vocab_size must be between 1 and 2.32"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false, got 'false'"),
        ({"head_dim": 9}, "head_dim 9: a Llama's 4 num_attention_heads share its hidden_size 128 evenly"),
        ({"num_attention_heads": 5}, "head_dim 32: a Llama's 5 num_attention_heads share its hidden_size 128 evenly"),
    ],
)
def test_values_that_no_llama_has_are_named(folder, tmp_path, changes, message):
    values = json.loads((folder / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(values | changes), "utf-8")
    with pytest.raises(InputError, match=rf"config\.json: {message}"):
        memory.main(["--base-model", str(tmp_path)])


@pytest.mark.parametrize(
    ("option", "value"),
    [("gpu-gib", "nan"), ("gpu-gib", "-5"), ("gpu-gib", "inf"), ("rows", "1" + "0" * 400), ("rank", "1" + "0" * 400)],
)
def test_amounts_that_no_machine_has_are_named(option, value):
    with pytest.raises(InputError, match=f"{option.replace('-', '_')} must be .* got {value}"):
        memory.main([f"--{option}", value])


def test_a_document_that_is_no_text_is_one_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_bytes(b"\xff<!-- memory --><!-- /memory -->")
    with pytest.raises(InputError, match=r"page\.md: not UTF-8 text \(byte 0\)"):
        memory.main(["--output", str(page)])
