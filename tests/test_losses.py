"""The losses: against gliner's, PyTorch's and scikit-learn's, against their formulas in double precision, and by
hand.
"""

from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gliner.modeling.loss_functions import focal_loss_with_logits
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from common.models.losses import (
    IGNORED,
    binary_focal_loss,
    class_balanced_weights,
    inverse_frequency_weights,
    token_cross_entropy,
    token_focal_loss,
)


def random_case(scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 7, generator=generator) * scale
    return logits, (torch.rand(40, 7, generator=generator) < 0.3).float()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.44])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.25, 0.75, 1.0])
def test_equal_to_gliner_with_gradients(gamma, alpha):
    logits, targets = random_case()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    mine = binary_focal_loss(ours, targets, gamma=gamma, alpha=alpha)
    reference = focal_loss_with_logits(theirs, targets, alpha=-1 if alpha is None else alpha, gamma=gamma)
    torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)
    mine.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.01, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_are_finite_and_float32(dtype, gamma):
    logits = torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4], dtype=dtype).requires_grad_()
    for answer in (0.0, 1.0):
        loss = binary_focal_loss(logits, torch.full((5,), answer), gamma=gamma, alpha=0.75)
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert gradient.isfinite().all()
        # A certain and wrong answer still has its gradient, where a clamped logarithm would have none.
        assert gradient[0 if answer else -1] != 0


def test_what_no_focal_loss_takes():
    two, outside = torch.zeros(2), torch.zeros(1, dtype=torch.int64)
    for call, message in (
        (lambda: binary_focal_loss(two, two, gamma=-0.1), "gamma must be >= 0, got -0.1"),
        (lambda: binary_focal_loss(two, two, alpha=1.5), "alpha must be between 0 and 1, got 1.5"),
        (lambda: binary_focal_loss(torch.zeros(2, 3), torch.zeros(3, 2)), r"\(2, 3\) and targets \(3, 2\) differ"),
        (lambda: token_focal_loss(torch.zeros(1, 2), outside, gamma=-1), "gamma must be >= 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# -- class weights ----------------------------------------------------------------------------------------------------

some_counts = st.lists(st.integers(0, 10**7), min_size=1, max_size=8).filter(any)


@pytest.mark.parametrize("counts", [[5, 1, 94], [7], [3, 3, 3, 3], [1, 20_000, 3, 400_000]])
def test_inverse_frequency_weights_equal_scikit_learns(counts):
    classes = np.arange(len(counts))
    expected = compute_class_weight("balanced", classes=classes, y=classes.repeat(counts))
    weights = inverse_frequency_weights(torch.tensor(counts))
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_inverse_frequency_of_a_class_that_does_not_occur():
    """It weighs as if it occurred once."""
    assert inverse_frequency_weights(torch.tensor([6, 0, 3])).tolist() == [0.5, 3.0, 1.0]


def test_class_balanced_weights_by_hand():
    # Effective numbers 1, 3/2 and 7/4; their inverses 1, 2/3 and 4/7 add up to 47/21.
    weights = class_balanced_weights(torch.tensor([1, 2, 3]), beta=0.5)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([63 / 47, 42 / 47, 36 / 47])
    # A class that does not occur has no weight, and the others add up to all the classes.
    assert class_balanced_weights(torch.tensor([1, 2, 0]), beta=0.5).tolist() == pytest.approx([9 / 5, 6 / 5, 0])


JNLPBA_WORDS = {"protein": 55_117, "dna": 25_307, "cell type": 15_466, "cell line": 11_217, "rna": 2_481, "O": 382_963}
"""Words of each class in JNLPBA's whole training part, as ``test_token_model.py`` counts them where the corpus is."""


@pytest.mark.parametrize(
    ("beta", "printed"),
    [
        (0.9999, dict(zip(JNLPBA_WORDS, ("0.58", "0.63", "0.73", "0.86", "2.63", "0.577"), strict=True))),
        (0.999, dict(zip(JNLPBA_WORDS, ("0.985", "0.985", "0.985", "0.985", "1.07", "0.985"), strict=True))),
    ],
)  # fmt: skip
def test_class_balanced_weights_of_jnlpba(beta, printed):
    """The weights that were worked out for the public repository, in all their digits.

    They are reproduced by the counts of words; sub-words, of which an entity has more to a word, give others
    (beta 0.9999: protein 0.77, RNA 2.04 with a BERT tokenizer). At 0.999 the weights are close to none at all.
    """
    weights = class_balanced_weights(torch.tensor([*JNLPBA_WORDS.values()]), beta)
    for (name, expected), weight in zip(printed.items(), weights.tolist(), strict=True):
        digits = len(expected.partition(".")[2])
        assert f"{weight:.{digits}f}" == expected, name


@given(some_counts, st.floats(0, 1, exclude_max=True))
def test_class_balanced_weights_add_up_and_fall_with_the_count(counts, beta):
    weights = class_balanced_weights(torch.tensor(counts), beta)
    assert weights.isfinite().all()
    assert weights.sum().item() == pytest.approx(len(counts), rel=1e-5)
    assert [weight == 0 for weight in weights.tolist()] == [count == 0 for count in counts]
    occurring = sorted((count, weight) for count, weight in zip(counts, weights.tolist(), strict=True) if count)
    falling = [weight for _, weight in occurring]
    assert all(right <= left * (1 + 1e-6) for left, right in pairwise(falling))


@given(some_counts)
def test_beta_0_weighs_all_classes_that_occur_alike(counts):
    weights = class_balanced_weights(torch.tensor(counts), beta=0.0)
    share = len(counts) / sum(count > 0 for count in counts)
    assert weights.tolist() == pytest.approx([share * (count > 0) for count in counts])
    if all(counts):
        assert weights.tolist() == [1.0] * len(counts)


@pytest.mark.parametrize("beta", [1 - 1e-6, 1 - 1e-15])
def test_large_counts_and_a_beta_close_to_1_keep_their_digits(beta):
    counts = [3, 1_000, 10**6, 2 * 10**9]
    with localcontext() as context:
        context.prec = 60
        inverses = [(1 - Decimal(beta)) / (1 - Decimal(beta) ** count) for count in counts]
        expected = [float(len(counts) * inverse / sum(inverses)) for inverse in inverses]
    weights = class_balanced_weights(torch.tensor(counts), beta)
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("beta", [1.0, -0.1, 1.5, float("nan")])
def test_beta_out_of_range(beta):
    with pytest.raises(ValueError, match=rf"beta must be in \[0, 1\), got {beta}"):
        class_balanced_weights(torch.tensor([1, 2]), beta)


def test_weights_of_nothing():
    for weigh in (inverse_frequency_weights, lambda counts: class_balanced_weights(counts, 0.9)):
        with pytest.raises(ValueError, match="at least one labelled sub-word"):
            weigh(torch.tensor([0, 0]))


# -- losses over classes ----------------------------------------------------------------------------------------------

N_CLASSES = 5
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.44]
WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.0, 1.5])


def token_case() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of 60 sub-words, every third of which is ignored."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(60, N_CLASSES, generator=generator) * 3
    targets = torch.randint(N_CLASSES, (60,), generator=generator)
    targets[::3] = IGNORED
    return logits, targets


def focal_by_formula(logits: np.ndarray, targets: np.ndarray, gamma: float, weights: np.ndarray) -> float:
    """The mean of ``-w_y (1 - p_y)^gamma log(p_y)``, in double precision."""
    total, number = 0.0, 0
    for row, target in zip(logits.astype(np.float64), targets, strict=True):
        if target == IGNORED:
            continue
        exponentials = np.exp(row - row.max())
        p = exponentials[target] / exponentials.sum()
        total -= weights[target] * (1 - p) ** gamma * np.log(p)
        number += 1
    return total / number


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_focal_loss_equals_its_formula(gamma, weights):
    logits, targets = token_case()
    loss = token_focal_loss(logits, targets, gamma=gamma, weights=weights)
    applied = np.ones(N_CLASSES) if weights is None else weights.numpy()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(focal_by_formula(logits.numpy(), targets.numpy(), gamma, applied), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_gradient_equals_the_formulas_finite_differences(gamma):
    logits, targets = token_case()
    logits, targets = logits[:8].requires_grad_(), targets[:8]
    (gradient,) = torch.autograd.grad(token_focal_loss(logits, targets, gamma=gamma, weights=WEIGHTS), logits)
    exact = logits.detach().numpy().astype(np.float64)
    step = 1e-6
    for place in np.ndindex(exact.shape):
        ends = []
        for side in (step, -step):
            moved = exact.copy()
            moved[place] += side
            ends.append(focal_by_formula(moved, targets.numpy(), gamma, WEIGHTS.numpy()))
        assert gradient[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_cross_entropy_is_pytorchs(weights):
    """Which divides by the weights, where the focal loss divides by the number of targets."""
    logits, targets = token_case()
    expected = F.cross_entropy(logits, targets, weights)
    assert token_cross_entropy(logits, targets, weights=weights).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("loss", [token_cross_entropy, token_focal_loss])
def test_ignored_targets_do_not_count(loss):
    logits, targets = token_case()
    labelled = targets != IGNORED
    alone = loss(logits[labelled], targets[labelled])
    logits = logits.masked_fill(~labelled[:, None], float("nan")).requires_grad_()
    together = loss(logits, targets)
    assert together.item() == pytest.approx(alone.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(together, logits)
    assert not gradient[~labelled].any()
    assert gradient[labelled].any(dim=1).all()


@pytest.mark.parametrize("loss", [token_cross_entropy, token_focal_loss])
def test_nothing_to_learn_from_is_an_error(loss):
    with pytest.raises(ValueError, match="all 4 targets of the batch are ignored"):
        loss(torch.zeros(4, 3), torch.full((4,), IGNORED))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_certain_answers_have_a_finite_loss_and_gradient(gamma, dtype):
    """The power of ``1 - p`` has an infinite slope at p = 1 where the exponent is below 1."""
    logits = torch.tensor([[200.0, 0, 0], [0, 0, 200], [20, 0, 0], [0, 1e4, 0]], dtype=dtype).requires_grad_()
    right, wrong = torch.tensor([0, 2, 0, 1]), torch.tensor([1, 0, 2, 0])
    for targets in (right, wrong):
        loss = token_focal_loss(logits, targets, gamma=gamma)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert gradient.isfinite().all()
        if targets is right:
            assert loss.item() == pytest.approx(0, abs=1e-6)
        else:
            assert loss.item() == pytest.approx((200 + 200 + 20 + 1e4) / 4, rel=1e-2)
            # A certain and wrong answer has the gradient of cross-entropy.
            assert gradient.float().abs().sum(dim=1).tolist() == pytest.approx([0.5] * 4, rel=1e-2)
