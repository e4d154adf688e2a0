"""Attention: values, gradients and memory beside torch's own, and the networks that it is used in."""

import pytest
import torch
from tiny import save_llama
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModel, BertConfig, BertModel, PreTrainedModel

from common.models import attention
from common.models.attention import _Attention, use_lean_attention
from common.models.dropout import FastDropout, keep_mask, make_dropout_fast
from common.registry import spec

B, H, Q, D = 2, 2, 4, 3
SCALE = D**-0.5


def inputs(dtype=torch.float64):
    torch.manual_seed(0)
    # As transformers' layers make them: the heads lie behind the tokens.
    return [torch.randn(B, Q, H, D, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]


def padding():
    """The second sentence has three tokens."""
    return (torch.arange(Q) < torch.tensor([Q, 3])[:, None])[:, None, None].expand(B, 1, Q, Q)


MASKS = {
    "none": None,
    "padding": padding(),
    "causal": torch.ones(Q, Q, dtype=torch.bool).tril(),
    "added": torch.randn(B, 1, Q, Q, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_values_and_gradients_are_those_of_torch(mask):
    own, reference = inputs(), inputs()
    weights = torch.randn(B, H, Q, D, dtype=torch.float64)
    found = _Attention.apply(*own, mask, SCALE, 0.0)
    expected = scaled_dot_product_attention(*reference, attn_mask=mask)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(found, expected)
    for ours, theirs in zip(own, reference, strict=True):
        assert torch.allclose(ours.grad, theirs.grad)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("probability", [0.0, 0.4])
def test_gradients_are_those_of_finite_differences(mask, probability):
    def forward(*tensors):
        torch.manual_seed(3)
        return _Attention.apply(*tensors, mask, SCALE, probability)

    assert torch.autograd.gradcheck(forward, inputs())


def test_dropout_cuts_weights_and_scales_the_rest():
    query, key, value = inputs()
    torch.manual_seed(5)
    found = _Attention.apply(query, key, value, None, SCALE, 0.25)
    torch.manual_seed(5)
    weights = torch.softmax(query @ key.transpose(-1, -2) * SCALE, dim=-1)
    kept = keep_mask(weights, 0.25)
    assert 0 < float(kept.mean()) < 1
    assert torch.allclose(found, (weights * kept / 0.75) @ value)


def test_without_dropout_nothing_kept_grows_with_the_square_of_the_length():
    def kept(length, probability):
        sizes = []
        query, key, value = (torch.randn(1, 1, length, D, requires_grad=True) for _ in range(3))
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()), lambda _: None):
            _Attention.apply(query, key, value, None, SCALE, probability)
        return sum(sizes)

    assert kept(40, 0.0) == 2 * kept(20, 0.0)
    assert kept(40, 0.1) > 3 * kept(20, 0.1)


# -- in networks ------------------------------------------------------------------------------------------------------


def bert(**settings):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertModel(BertConfig(vocab_size=50, attn_implementation="sdpa", **(shape | settings))).eval()


def llama(folder):
    return AutoModel.from_pretrained(save_llama(folder), attn_implementation="sdpa", dtype=torch.float32).eval()


def gradients(network, ids, mask):
    """Of a sum over the tokens that are no padding, in bf16."""
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(ids, attention_mask=mask).last_hidden_state
    (output.float() * mask[..., None]).square().sum().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.fixture
def calls(monkeypatch):
    """The dropout probability of each use of our own gradients."""
    seen = []
    original = _Attention.apply

    def apply(*arguments):
        seen.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(_Attention, "apply", apply)
    return seen


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_network_in_bf16_has_the_gradients_that_it_had(name, padded, calls, tmp_path):
    network = bert() if name == "bert" else llama(tmp_path)
    ids, mask = torch.arange(5, 17).reshape(2, 6), torch.ones(2, 6, dtype=torch.long)
    if padded:
        # A decoder's on the left, where a token of the padding sees nothing at all.
        mask[1, slice(4, 6) if name == "bert" else slice(0, 2)] = 0
    before = gradients(network, ids, mask)
    use_lean_attention(network)
    after = gradients(network, ids, mask)
    assert calls == [0.0] * network.config.num_hidden_layers
    assert bool(after.isfinite().all())
    assert float((after - before).norm() / before.norm()) < 0.03


def test_it_is_used_where_the_own_one_is_slow_and_nowhere_else(calls):
    ids, mask = torch.arange(5, 11).reshape(1, 6), torch.ones(1, 6, dtype=torch.long)
    network = bert(attention_probs_dropout_prob=0.2)
    use_lean_attention(network)
    expected = bert(attention_probs_dropout_prob=0.2)(ids, attention_mask=mask).last_hidden_state
    assert torch.equal(network(ids, attention_mask=mask).last_hidden_state, expected)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(ids, attention_mask=mask)
    assert calls == []
    network.train()(ids, attention_mask=mask)
    assert calls == [0.2, 0.2]


def test_networks_inside_a_module_are_found_and_those_with_another_attention_stay():
    inside = nn.ModuleDict({"sdpa": bert(), "eager": bert()})
    inside["eager"].set_attn_implementation("eager")
    use_lean_attention(inside)
    found = [network.config._attn_implementation for network in inside.values()]
    assert found == [attention._NAME, "eager"]


def test_dropout_is_made_fast_wherever_it_stands_and_keeps_its_settings():
    shared = nn.Dropout(0.3)
    module = nn.ModuleDict(
        {"a": nn.Sequential(nn.Linear(2, 2), shared), "b": nn.Sequential(nn.Dropout(0.1)), "c": shared}
    )
    module["b"].eval()
    make_dropout_fast(module)
    found = [module["a"][1], module["b"][0], module["c"]]
    assert all(type(dropout) is FastDropout for dropout in found)
    assert [dropout.p for dropout in found] == pytest.approx([0.3, 0.1, 0.3])
    assert [dropout.training for dropout in found] == [True, False, True]


@pytest.mark.parametrize("base", ["bi-bert", "cross-bert"])
def test_training_puts_both_into_the_whole_model(trial, base):
    model, _ = trial(spec("full_finetune"), base, encoder=base.split("-")[0], train={"epochs": 1}).train()
    networks = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    assert networks
    assert {network.config._attn_implementation for network in networks} == {attention._NAME}
    assert {type(module) for module in model.modules() if isinstance(module, nn.Dropout)} == {FastDropout}
