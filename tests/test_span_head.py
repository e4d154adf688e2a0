"""The factored span head against gliner's own, and the fast dropout."""

import pytest
import torch
from gliner.data_processing.utils import prepare_span_idx
from gliner.modeling.span_rep import SpanMarkerV0, SpanRepLayer
from torch import Tensor, nn

from common.models.dropout import fast_dropout, keep_mask
from common.models.span_head import _SpanScores, dense_logits, factored_logits, span_mask

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


def hidden_dropout_only(probability: float) -> SpanMarkerV0:
    """A layer in training mode that drops nothing but the hidden units of its last projection."""
    torch.manual_seed(0)
    marker = SpanMarkerV0(HIDDEN, WIDTH, dropout=0.0).train()
    marker.out_project[2].p = probability
    return marker


def test_dropout_of_the_hidden_units_keeps_the_expectation():
    marker = hidden_dropout_only(0.5)
    words, labels = inputs(1, 6, own_labels=False)
    n = 4000
    with torch.no_grad():
        drawn = factored_logits(marker, words.expand(n, -1, -1), labels)
        expected = factored_logits(marker.eval(), words, labels)[0]
    inside = span_mask(torch.tensor([6]), 6, WIDTH)[0]
    samples = drawn[:, inside]
    error = (samples.mean(0) - expected[inside]) / (samples.std(0) / n**0.5)
    assert samples.std(0).min() > 0
    assert error.abs().max() < 6
    # Not all of the expectation is the bias, which is never dropped.
    bias = labels @ marker.out_project[3].bias
    assert (expected[inside] - bias).abs().mean() > 3 * (samples.std(0) / n**0.5).mean()


@pytest.mark.parametrize("own_labels", [False, True], ids=["(C, D)", "(B, C, D)"])
def test_dropout_of_the_hidden_units_is_the_same_in_both_directions(own_labels):
    """Against the same masks in plain operations, gradients included."""
    probability = 0.3
    marker = hidden_dropout_only(probability)
    words, labels = inputs(3, 7, own_labels)

    def plain() -> Tensor:
        hidden_layer, activation, _, out_layer = marker.out_project
        starts = marker.project_start(words).relu() @ hidden_layer.weight[:, :HIDDEN].T + hidden_layer.bias
        ends = marker.project_end(words).relu() @ hidden_layer.weight[:, HIDDEN:].T
        by_width = []
        for width in range(WIDTH):
            hidden = starts[:, : 7 - width] + ends[:, width:]
            kept = activation(hidden) * keep_mask(hidden, probability) / (1 - probability)
            spans = kept @ out_layer.weight.T + out_layer.bias
            by_width.append(spans @ (labels.transpose(1, 2) if own_labels else labels.T))
        return torch.cat(by_width, dim=1)

    def factored() -> Tensor:
        logits = factored_logits(marker, words, labels)
        return torch.cat([logits[:, : 7 - width, width] for width in range(WIDTH)], dim=1)

    results = []
    for compute in (plain, factored):
        torch.manual_seed(5)
        logits = compute()
        weights = torch.arange(logits.numel()).view_as(logits).cos()
        results.append((logits, torch.autograd.grad((logits * weights).sum(), [words, labels, *marker.parameters()])))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    torch.manual_seed(6)
    assert not torch.equal(factored(), results[1][0])


def score_inputs(n_words: int, own_labels: bool, dtype: torch.dtype) -> list[Tensor]:
    """Words as starts and as ends, and labels, of two sentences and width 4."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, n_words, 4), (2, n_words, 4), (2, N_LABELS, 4) if own_labels else (N_LABELS, 4)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("own_labels", [False, True], ids=["(C, D)", "(B, C, D)"])
@pytest.mark.parametrize("probability", [0.0, 0.4])
@pytest.mark.parametrize("n_words", [2, 5])
def test_gradient_of_the_scores_by_finite_differences(n_words, probability, own_labels):
    exact = score_inputs(n_words, own_labels, torch.float64)
    inside = span_mask(torch.tensor([n_words, n_words]), n_words, WIDTH)

    def scores(*tensors: Tensor) -> Tensor:
        torch.manual_seed(1)
        return _SpanScores.apply(*tensors, WIDTH, probability, True)[inside]

    # Each alone too: what is frozen gets no gradient, and the others still get theirs.
    for trained in ([0, 1, 2], [2], [0, 1]):
        tensors = [tensor.clone().requires_grad_(number in trained) for number, tensor in enumerate(exact)]
        assert torch.autograd.gradcheck(scores, tensors, fast_mode=True)


@pytest.mark.parametrize("own_labels", [False, True], ids=["(C, D)", "(B, C, D)"])
def test_bf16_scores_and_gradients_are_rounded_ones(own_labels):
    exact = score_inputs(7, own_labels, torch.bfloat16)
    results = []
    for precision in (torch.float64, torch.bfloat16):
        tensors = [tensor.to(precision).requires_grad_() for tensor in exact]
        logits = _SpanScores.apply(*tensors, WIDTH, 0.0, True)[span_mask(torch.tensor([7, 7]), 7, WIDTH)]
        assert logits.dtype == precision
        results.append([logits, *torch.autograd.grad(logits.double().square().sum(), tensors)])
    for expected, rounded in zip(*results, strict=True):
        assert (rounded.double() - expected).norm() < 0.01 * expected.norm()


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_mask_is_of_zeros_and_ones_in_the_type_of_what_it_multiplies(dtype):
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(7, 11, dtype=dtype), 0.5)
    assert (mask.shape, mask.dtype) == ((7, 11), dtype)
    assert mask.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("probability", "share"), [(0.0, 0.0), (2**-16, 2**-16), (1 - 2**-16, 1 - 2**-16), (1 - 2**-20, 1 - 2**-16)]
)
def test_share_of_zeros_at_the_ends_of_the_scale(probability, share):
    torch.manual_seed(0)
    n = 2**22
    zeros = n - int(keep_mask(torch.empty(n), probability).double().sum())
    assert zeros == pytest.approx(share * n, abs=6 * (share * (1 - share) * n) ** 0.5)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = (fast_dropout(torch.ones(200_000), 0.4, training=True) != 0).float()
    # Of one draw, and of one place in draws far apart.
    for columns in (kept.view(-1, 4), kept.view(4, -1).T, kept.view(8, -1).T):
        correlation = torch.corrcoef(columns.T) - torch.eye(columns.shape[1])
        assert correlation.abs().max() < 6 / len(columns) ** 0.5


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
