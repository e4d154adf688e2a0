"""The factored span head against gliner's own, and the fast dropout."""

import pytest
import torch
from gliner.data_processing.utils import prepare_span_idx
from gliner.modeling.span_rep import SpanMarkerV0, SpanRepLayer
from torch import Tensor, nn

from common.dropout import fast_dropout, mlp
from common.span_head import dense_logits, factored_logits, span_mask

WIDTH, HIDDEN, N_LABELS = 4, 16, 3


def reference(layer: nn.Module, words: Tensor, labels: Tensor) -> Tensor:
    """gliner's scores: all spans through the layer, then a dot product with the labels."""
    n_words = words.shape[1]
    index = prepare_span_idx(n_words, WIDTH).unsqueeze(0).expand(len(words), -1, -1)
    # gliner points spans that run past the end to word 0.
    index = index * (index[..., 1] < n_words).unsqueeze(-1)
    spans = layer(words, index)
    return torch.einsum("bwkd,bcd->bwkc", spans, labels.expand(len(words), -1, -1) if labels.dim() == 2 else labels)


def inputs(n_sentences: int, n_words: int, own_labels: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n_words)
    words = torch.randn(n_sentences, n_words, HIDDEN, generator=generator)
    shape = (n_sentences, N_LABELS, HIDDEN) if own_labels else (N_LABELS, HIDDEN)
    return words.requires_grad_(), torch.randn(shape, generator=generator).requires_grad_()


@pytest.mark.parametrize("own_labels", [False, True], ids=["(C, D)", "(B, C, D)"])
@pytest.mark.parametrize("n_words", [1, 2, 3, 4, 11])
def test_factored_equals_gliner_with_gradients(n_words, own_labels):
    torch.manual_seed(0)
    marker = SpanMarkerV0(HIDDEN, WIDTH, dropout=0.0).train()
    words, labels = inputs(3, n_words, own_labels)
    inside = span_mask(torch.full((3,), n_words), n_words, WIDTH)
    results = []
    for compute in (reference, factored_logits):
        logits = compute(marker, words, labels)
        # Any scalar that weighs each span otherwise.
        weights = torch.arange(logits[inside].numel()).view_as(logits[inside]).cos()
        gradients = torch.autograd.grad((logits[inside] * weights).sum(), [words, labels, *marker.parameters()])
        results.append((logits[inside], gradients))
    (expected, expected_gradients), (ours, our_gradients) = results
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert len(our_gradients) == 2 + len(list(marker.parameters()))
    for mine, theirs in zip(our_gradients, expected_gradients, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_spans_past_the_last_word_are_impossible():
    marker = SpanMarkerV0(HIDDEN, WIDTH).eval()
    words, labels = inputs(2, 6, own_labels=False)
    logits = factored_logits(marker, words, labels)
    assert logits.shape == (2, 6, WIDTH, N_LABELS)
    for start in range(6):
        for width in range(WIDTH):
            assert (logits[:, start, width] == float("-inf")).all() == (start + width >= 6)


def test_span_mask_by_hand():
    mask = span_mask(torch.tensor([3, 1]), 3, 2)
    assert mask.tolist() == [
        [[True, True], [True, True], [True, False]],
        [[True, False], [False, False], [False, False]],
    ]


@pytest.mark.parametrize("mode", ["marker", "markerV0", "markerV1", "query", "mlp", "cat", "conv_conv", "conv_max"])
@pytest.mark.parametrize("own_labels", [False, True], ids=["(C, D)", "(B, C, D)"])
def test_dense_equals_gliner(mode, own_labels):
    torch.manual_seed(0)
    options = {"dropout": 0.0} if mode.startswith("marker") else {}
    layer = SpanRepLayer(HIDDEN, WIDTH, mode, **options).eval()
    words, labels = inputs(2, 7, own_labels)
    inside = span_mask(torch.tensor([7, 7]), 7, WIDTH)
    ours = dense_logits(layer.span_rep_layer, words, labels, inside)
    expected = reference(layer, words, labels)
    assert expected[inside].std() > 0
    torch.testing.assert_close(ours[inside], expected[inside])


# -- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_share_of_zeros_scale_and_expectation(probability):
    torch.manual_seed(0)
    n = 200_001  # no multiple of the four decisions of one draw
    output = fast_dropout(torch.ones(n), probability, training=True)
    values = output.unique().tolist()
    assert values == pytest.approx([0.0, 1 / (1 - probability)])
    # Six standard deviations of a binomial share.
    assert (output == 0).float().mean().item() == pytest.approx(
        probability, abs=6 * (probability * (1 - probability) / n) ** 0.5
    )
    assert output.mean().item() == pytest.approx(1.0, abs=6 * (probability / (1 - probability) / n) ** 0.5)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = (fast_dropout(torch.ones(50_000, 4), 0.4, training=True) != 0).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 6 / 50_000**0.5


def test_reproducible_by_seed():
    inputs = torch.randn(13, 5)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(fast_dropout(inputs, 0.5, training=True))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[2], fast_dropout(inputs, 0.5, training=True))


def test_identity_in_evaluation_and_at_probability_0():
    inputs = torch.randn(5)
    state = torch.get_rng_state()
    assert fast_dropout(inputs, 0.5, training=False) is inputs
    assert fast_dropout(inputs, 0.0, training=True) is inputs
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fast_dropout(inputs, 1.0, training=True), torch.zeros(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_is_the_mask(dtype):
    torch.manual_seed(0)
    values = (torch.rand(33, 3) + 1).to(dtype).requires_grad_()
    output = fast_dropout(values, 0.25, training=True)
    assert output.dtype == dtype
    (gradient,) = torch.autograd.grad(output.sum(), values)
    assert torch.equal(gradient == 0, output == 0)
    kept = gradient[gradient != 0]
    assert 0 < len(kept) < gradient.numel()
    assert kept.float().tolist() == pytest.approx([1 / 0.75] * len(kept), rel=0.01)


def test_mlp_equals_the_layer_and_has_its_dropout():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    values = torch.randn(10, 6)
    layer.eval()
    assert torch.equal(mlp(layer, values), layer(values))
    layer.train()
    assert not torch.equal(mlp(layer, values), mlp(layer, values))
