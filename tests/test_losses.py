"""The focal loss: against gliner's, against cross-entropy, and by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from gliner.modeling.loss_functions import focal_loss_with_logits

from common.losses import binary_focal_loss


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


def test_gamma_0_is_cross_entropy():
    logits, targets = random_case()
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert torch.equal(binary_focal_loss(logits, targets), expected)


def test_by_hand():
    # p = 0.8 and the answer is yes, p = 0.8 and the answer is no.
    logits = torch.tensor([math.log(4), math.log(4)])
    loss = binary_focal_loss(logits, torch.tensor([1, 0]), gamma=2.0, alpha=0.25)
    assert loss.tolist() == pytest.approx([-0.25 * 0.2**2 * math.log(0.8), -0.75 * 0.8**2 * math.log(0.2)])


def test_a_larger_gamma_lowers_the_loss_of_every_element():
    logits, targets = random_case()
    losses = [binary_focal_loss(logits, targets, gamma=gamma) for gamma in (0.0, 1.0, 3.0)]
    assert (losses[0] > losses[1]).all()
    assert (losses[1] > losses[2]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_are_finite_and_float32(dtype):
    logits = torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4], dtype=dtype).requires_grad_()
    for answer in (0.0, 1.0):
        loss = binary_focal_loss(logits, torch.full((5,), answer), gamma=2.0, alpha=0.75)
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert gradient.isfinite().all()
        # A certain and wrong answer still has its gradient, where a clamped logarithm would have none.
        assert gradient[0 if answer else -1] != 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gamma": -0.1}, "gamma must be >= 0, got -0.1"), ({"alpha": 1.5}, "alpha must be between 0 and 1, got 1.5")],
)
def test_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        binary_focal_loss(torch.zeros(2), torch.zeros(2), **options)


def test_shapes_that_differ():
    with pytest.raises(ValueError, match=r"\(2, 3\) and targets \(3, 2\) differ"):
        binary_focal_loss(torch.zeros(2, 3), torch.zeros(3, 2))
