"""Causal language models as bases: read in both directions, quantised, with adapters, and refused where they are not
what they say."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_llama
from torch import nn
from transformers import AutoModelForCausalLM, BioGptConfig, GPT2Config, GPT2Model, GPTNeoXConfig

from common.approach import count_parameters, freeze_all_but
from common.config import RuntimeConfig
from common.errors import InputError
from common.models import causal_lm, demo_llm
from common.models.adapters import add_lora, lora_part, set_adapter_dropout
from common.models.causal_lm import (
    frozen_dtype,
    kind_of_device,
    language_model_revision,
    language_models,
    load_language_model,
)
from common.models.config import LoraConfig
from common.models.published import SMOLLM_INSTALL, packaged_smollm
from common.paths import PROJECT_ROOT

IMPLEMENTATIONS = ("sdpa", "eager")


@pytest.fixture
def folder(gliner_folder):
    return gliner_folder("causal-llama")


@pytest.fixture
def own(folder, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(folder, tmp_path / "own")


@pytest.fixture
def base(folder):
    return load_language_model(str(folder), "causal")


def randomise_adapters(network):
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)


def states(network, ids, mask=None):
    ids = torch.tensor(ids)
    mask = torch.ones_like(ids) if mask is None else torch.tensor(mask)
    with torch.no_grad():
        return network(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_a_later_token_changes_an_earlier_state_only_in_both_directions(base, attention, implementation, adapted):
    network = base.network(output_layer=False, attention=attention, implementation=implementation)
    if adapted:
        add_lora(network, LoraConfig())
        randomise_adapters(network)
    # Alone, and in a batch with padding, which takes another path through the masks.
    for first, second in (([[5, 6, 7, 8]], [[5, 6, 7, 9]]), ([[5, 6, 7, 8]] * 2, [[5, 6, 7, 9]] * 2)):
        mask = [[1, 1, 1, 1]] + [[1, 1, 1, 0]] * (len(first) - 1)
        change = (states(network, first, mask)[0, :3] - states(network, second, mask)[0, :3]).abs().amax(-1)
        if attention == "bidirectional":
            assert change.min() > 1e-3
        else:
            assert change.max() < 1e-6


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_padding_and_implementation_change_nothing(base, attention, implementation):
    alone = states(base.network(output_layer=False, attention=attention, implementation="eager"), [[5, 6, 7]])
    network = base.network(output_layer=False, attention=attention, implementation=implementation)
    padded = states(network, [[5, 6, 7, 99, 42], [3, 4, 5, 6, 7]], [[1, 1, 1, 0, 0], [1] * 5])
    assert padded[0, :3].numpy() == pytest.approx(alone[0].numpy(), abs=1e-5)


def test_a_token_that_is_generated_sees_what_it_sees_in_the_whole_text(base, monkeypatch):
    network = base.network(output_layer=True)
    assert network.config.num_key_value_heads < network.config.num_attention_heads
    ids, mask = torch.tensor([[5, 6, 7, 8, 9], [0, 0, 3, 4, 5]]), torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
    whole = base.network(output_layer=True, implementation="eager")(ids, attention_mask=mask).logits
    with torch.no_grad():
        begun = network(ids[:, :4], attention_mask=mask[:, :4], use_cache=True)
        # No key is repeated for the heads that share it.
        monkeypatch.setattr("transformers.integrations.sdpa_attention.repeat_kv", None)
        last = network(ids[:, 4:], attention_mask=mask, past_key_values=begun.past_key_values).logits
    assert last[:, 0].numpy() == pytest.approx(whole[:, 4].detach().numpy(), abs=1e-5)


def test_a_network_that_stays_causal_is_refused(base, monkeypatch):
    from transformers.models.llama import modeling_llama

    causal = modeling_llama.create_causal_mask

    def deaf(config, **more):
        kept, config.is_causal = config.is_causal, True
        try:
            return causal(config, **more)
        finally:
            config.is_causal = kept

    base.network(output_layer=False, attention="bidirectional", implementation="eager")
    monkeypatch.setattr(modeling_llama, "create_causal_mask", deaf)
    with pytest.raises(InputError, match=r"--attention bidirectional: .* stays causal"):
        base.network(output_layer=False, attention="bidirectional", implementation="eager")


# -- adapters ---------------------------------------------------------------------------------------------------------


def test_adapters_change_nothing_until_they_are_trained(base):
    network = base.network(output_layer=True)
    before = network(torch.tensor([[5, 6, 7]])).logits
    add_lora(network, LoraConfig(rank=4, dropout=0.5))
    assert torch.equal(network(torch.tensor([[5, 6, 7]])).logits, before)
    randomise_adapters(network)
    assert not torch.allclose(network(torch.tensor([[5, 6, 7]])).logits, before)


def test_adapters_are_on_all_linear_layers_or_on_those_named(base):
    def adapted(**settings):
        network = base.network(output_layer=True)
        add_lora(network, LoraConfig(rank=4, **settings))
        return {path.split(".lora_")[0].rpartition(".")[2] for path in lora_part(network, 1e-4).modules}

    attention, mlp = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
    assert adapted() == attention | mlp
    assert adapted(modules=("q_proj", "v_proj")) == {"q_proj", "v_proj"}
    with pytest.raises(InputError, match=r"--modules: \['query'\]: the base model's linear layers are .*'q_proj'"):
        adapted(modules=("query", "v_proj"))


def test_layers_of_gpt2_have_adapters_by_their_names():
    network = GPT2Model(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=50, bos_token_id=0, eos_token_id=1))
    with pytest.raises(InputError, match=r"linear layers are \['c_attn', 'c_fc', 'c_proj'\]"):
        add_lora(network, LoraConfig(modules=("q_proj",)))
    add_lora(network, LoraConfig(modules=("c_attn",)))
    assert lora_part(network, 1e-4).modules == ("h.0.attn.c_attn.lora_A", "h.0.attn.c_attn.lora_B")


def test_only_adapters_are_trained_in_float32_and_their_dropout_is_on_in_training_alone(base):
    network = base.network(output_layer=False, dtype=torch.bfloat16)
    add_lora(network, LoraConfig(rank=4, dropout=0.5))
    randomise_adapters(network)
    part = lora_part(network, 1e-4)
    trained = freeze_all_but(network, [part])
    assert {name.removesuffix(".default.weight") for name in trained} == set(part.modules)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    ids = torch.tensor([[5, 6, 7]])

    def output():
        return network(ids).last_hidden_state

    set_adapter_dropout(network, False)
    assert torch.equal(output(), output())
    set_adapter_dropout(network, True)
    assert not torch.equal(output(), output())


# -- nf4 --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wider(gliner_folder):
    """A model whose rows fill the blocks of 64 weights that share a scale."""
    return load_language_model(str(gliner_folder("causal-llama", hidden_size=64, intermediate_size=128)), "causal")


def test_nf4_is_four_bits_but_for_the_output_layer_and_trains_on_a_cpu(wider):
    bitsandbytes, base = pytest.importorskip("bitsandbytes"), wider
    whole = base.network(output_layer=True)
    network = base.network(output_layer=True, quantization="nf4")
    four_bits = {n for n, m in network.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    linear = {n for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    assert linear - four_bits == {"lm_head"}
    assert len(four_bits) == 14
    assert count_parameters(network)[1] == count_parameters(whole)[1]
    ids = torch.arange(3, 19)[None]
    exact, rounded = whole(ids).logits, network(ids).logits
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).pow(2).mean() < 0.5 * exact.var()

    add_lora(network, LoraConfig(rank=4))
    trained = freeze_all_but(network, [lora_part(network, 1e-4)])
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = network(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_nf4_has_the_gradients_of_the_weights_that_it_stands_for(wider):
    """Whatever was predicted before: on some processors bitsandbytes then has a product without a gradient."""
    functional = pytest.importorskip("bitsandbytes.functional")
    packed, plain = (wider.network(output_layer=True, quantization=name) for name in ("nf4", "none"))
    for (name, four_bits), (_, exact) in zip(packed.named_parameters(), plain.named_parameters(), strict=True):
        if hasattr(four_bits, "quant_state"):
            exact.data = functional.dequantize_4bit(four_bits.data, four_bits.quant_state).view_as(exact)
        else:
            assert torch.equal(four_bits, exact), name
    ids = torch.arange(3, 19)[None]
    gradients = []
    for network in (packed, plain):
        torch.manual_seed(0)
        add_lora(network, LoraConfig(rank=4, dropout=0.0))
        randomise_adapters(network)
        trained = freeze_all_but(network, [lora_part(network, 1e-4)])
        with torch.no_grad():
            network(ids)
        network(ids, labels=ids).loss.backward()
        gradients.append([parameter.grad for parameter in trained.values()])
    assert len(gradients[0]) == 28
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-3)


def test_nf4_reads_in_both_directions(wider):
    pytest.importorskip("bitsandbytes")
    network = wider.network(output_layer=False, quantization="nf4", attention="bidirectional")
    assert causal_lm.sees_what_follows(network)


def test_nf4_without_its_package_is_one_line(base, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--quantization nf4 needs the package bitsandbytes"):
        base.network(output_layer=True, quantization="nf4")


def test_frozen_weights_are_in_half_precision_on_a_gpu_that_computes_in_it(monkeypatch):
    assert frozen_dtype(RuntimeConfig(device="cpu", precision="bf16")) == torch.float32
    # The GPU of a checkpoint is not on this machine.
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert kind_of_device(RuntimeConfig(device="cuda")) == "cpu"
    assert frozen_dtype(RuntimeConfig(device="cuda")) == torch.float32
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    assert kind_of_device(RuntimeConfig()) == "cuda"
    assert frozen_dtype(RuntimeConfig()) == torch.bfloat16
    assert frozen_dtype(RuntimeConfig(precision="fp32")) == torch.float32


# -- loading ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_known_by_its_weights(base, folder, own):
    assert (base.kind, base.name, base.location) == ("causal", folder.name, str(folder.resolve()))
    assert base.revision == language_model_revision(str(own)) == language_models("a/b").revision(str(folder))
    assert base.limit == 512
    assert base.tokenizer.pad_token_id == 1
    weights = load_file(own / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["lm_head.weight"] + 1}, own / "model.safetensors", {"format": "pt"})
    assert language_model_revision(str(own)) != base.revision


def test_weights_in_several_files_are_the_same_model(base, tmp_path):
    network = base.network(output_layer=True)
    network.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    base.tokenizer.save_pretrained(tmp_path / "parts")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    parts = load_language_model(str(tmp_path / "parts"), "causal")
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(parts.network(output_layer=True)(ids).logits, network(ids).logits)
    last = sorted((tmp_path / "parts").glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(InputError, match=rf"has no {last.name}"):
        language_model_revision(str(tmp_path / "parts"))


def edit(path, **changes):
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(values | changes), "utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "mine.Model"}}, "config.json names code to be run, auto_map"),
        ({"_attn_implementation": "owner/kernel"}, "names code to be run"),
        ({"model_type": "vit"}, "model_type 'vit' is no causal language model"),
        ({"model_type": None}, "model_type None is no causal language model"),
        ({"hidden_size": "wide"}, "could not be loaded"),
    ],
)
def test_a_configuration_that_is_none_is_refused(own, changes, message):
    edit(own / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        load_language_model(str(own), "causal").network(output_layer=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), r"1 missing or of another shape \['(model\.)?norm.weight'\]"),
        (lambda w: w.update({"model.extra": torch.ones(2)}), r"1 unexpected \['(model\.)?extra'\]"),
        (lambda w: w.update({"model.norm.weight": torch.ones(3)}), r"1 missing or .* \['(model\.)?norm.weight'\]"),
        (lambda w: w["model.norm.weight"].fill_(float("nan")), "values that are no finite numbers"),
    ],
)
@pytest.mark.parametrize("output_layer", [True, False])
def test_weights_that_are_not_the_models_are_refused(own, spoil, message, output_layer):
    weights = load_file(own / "model.safetensors")
    spoil(weights)
    save_file(weights, own / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=message):
        load_language_model(str(own), "causal").network(output_layer=output_layer)


@pytest.mark.parametrize(
    ("config", "layer"), [(GPTNeoXConfig, "embed_out"), (BioGptConfig, "output_projection")], ids=["GPT-NeoX", "BioGPT"]
)
def test_an_output_layer_of_any_name_is_left_out_and_not_quantised(own, config, layer):
    tokenizer = load_language_model(str(own), "causal").tokenizer
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    settings = config(vocab_size=len(tokenizer), max_position_embeddings=64, tie_word_embeddings=False, **shape)
    AutoModelForCausalLM.from_config(settings).save_pretrained(own)
    base = load_language_model(str(own), "causal")
    assert f"{layer}.weight" in load_file(own / "model.safetensors")
    assert not any(layer in name for name, _ in base.network(output_layer=False).named_modules())
    bitsandbytes = pytest.importorskip("bitsandbytes")
    network = base.network(output_layer=True, quantization="nf4")
    whole = [m for m in network.modules() if isinstance(m, nn.Linear) and not isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert whole == [network.get_output_embeddings()]


def test_what_is_no_language_model_is_refused_in_one_line(own, gliner_folder, tmp_path):
    for source, message in (
        (str(gliner_folder("bi-bert")), "has no config.json"),
        (str(tmp_path / "nowhere"), "neither a folder nor a hub id"),
        ("nowhere", "neither a folder nor a hub id"),
        ("owner/missing", "'owner/missing' could not be loaded: .*demo-llm"),
    ):
        with pytest.raises(InputError, match=message):
            load_language_model(source, "causal")
    with pytest.raises(InputError, match="needed is one of kind 'bi'"):
        load_language_model(str(own), "bi")
    (own / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n", "utf-8")
    with pytest.raises(InputError, match="Git LFS pointer"):
        load_language_model(str(own), "causal")
    (own / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        load_language_model(str(own), "causal")


def test_the_pretrained_network_predicts_as_it_was_saved(tmp_path):
    """Tied output layers are stored once, and are no missing tensor."""
    tied = save_llama(tmp_path / "tied", tie_word_embeddings=True)
    network = load_language_model(str(tied), "causal").network(output_layer=True)
    assert network.lm_head.weight is network.model.embed_tokens.weight
    assert torch.equal(network.lm_head.weight, load_file(tied / "model.safetensors")["model.embed_tokens.weight"])


# -- demo-llm ---------------------------------------------------------------------------------------------------------


def test_demo_llm_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setattr(demo_llm, "packaged_smollm", lambda: None)
    with pytest.raises(InputError, match="'demo-llm' comes in a package: " + re.escape(SMOLLM_INSTALL)):
        load_language_model("demo-llm", "causal")
    for approach in ("vaner", "nerllama"):
        assert SMOLLM_INSTALL in (PROJECT_ROOT / approach / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(packaged_smollm() is None, reason="the package of demo-llm is not installed")
def test_demo_llm_is_converted_once_and_knows_english(monkeypatch):
    pytest.importorskip("gguf")
    base = load_language_model("demo-llm", "causal")
    assert (base.name, base.location) == ("demo-llm", "demo-llm")
    monkeypatch.setattr(demo_llm, "_convert", None)
    assert load_language_model("demo-llm", "causal").revision == base.revision
    network = base.network(output_layer=True)
    ids = base.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert base.tokenizer.decode(network(ids).logits[0, -1].argmax()).strip() == "Paris"
    assert base.tokenizer.chat_template
