"""Training the used rows of an embedding table against training the table."""

import copy

import pytest
import torch
from torch import nn

from common.training import used_rows
from common.training.used_rows import UsedRows

ROWS, WIDTH = 40, 3
STEPS = (
    # Of each step its micro-batches; 0 is padding. Rows come back after a pause, come late, and come in a second micro-
    # batch only.
    [[1, 2, 0]],
    [[2, 2, 5]],
    [[1, 0, 0], [7, 2, 1]],
    [[5, 5, 5]],
    [[9, 1, 7]],
    [[1, 1, 1], [1, 30, 0]],
)


class Reader(nn.Module):
    def __init__(self, padding):
        super().__init__()
        self.table = nn.Embedding(ROWS, WIDTH, padding_idx=padding)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, ids):
        return (self.head(self.table(ids).tanh()) * (1.0 + ids.unsqueeze(-1))).square().mean()


def run(model, optimizer, epochs, *, enabled):
    """Losses and gradient norms of training as the loop does it."""
    figures = []
    for epoch in range(epochs):
        with UsedRows(model, optimizer, enabled=enabled) as rows:
            for number, batches in enumerate(STEPS):
                for ids in batches:
                    loss = model(torch.tensor(ids)) / len(batches)
                    loss.backward()
                    figures.append(loss.item())
                optimizer.param_groups[0]["lr"] = 0.05 / (1 + number + epoch)
                rows.gather()
                figures.append(nn.utils.clip_grad_norm_(rows.parameters(), 0.5).item())
                optimizer.step()
                optimizer.zero_grad()
                with torch.no_grad():
                    figures.append(model(torch.arange(ROWS)).item())
    return figures


@pytest.fixture
def any_size(monkeypatch):
    monkeypatch.setattr(used_rows, "_LEAST_ELEMENTS", 1)


@pytest.mark.parametrize("padding", [0, None, 2])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("epochs", [1, 3])
def test_equals_training_the_whole_table(any_size, padding, decay, epochs):
    torch.manual_seed(0)
    model = Reader(padding)
    before = model.table.weight.detach().clone()
    results = []
    for enabled in (False, True):
        trained = copy.deepcopy(model)
        groups = [
            {"params": [trained.table.weight], "weight_decay": decay},
            {"params": list(trained.head.parameters())},
        ]
        optimizer = torch.optim.AdamW(groups, fused=True)
        figures = run(trained, optimizer, epochs, enabled=enabled)
        assert optimizer.param_groups[0]["params"][0] is trained.table.weight
        states = [optimizer.state[parameter] for group in groups for parameter in group["params"]]
        results.append((figures, list(trained.parameters()), [list(state.values()) for state in states]))
    torch.testing.assert_close(results[1], results[0], rtol=2e-6, atol=1e-7)
    # Read rows have learnt, the others have decayed or stayed.
    weight = results[1][1][0]
    assert (weight[[1, 5, 7, 30]] - before[[1, 5, 7, 30]]).abs().min() > 1e-3
    assert torch.equal(weight[11], before[11]) == (decay == 0)
    # Without decay of the unused rows, or with the decay of another step, the comparison above would fail.
    if decay:
        assert (weight[11] / before[11] - 1).abs().min() > 1e-2


def test_the_optimizer_holds_the_read_rows_only(any_size):
    torch.manual_seed(0)
    model = Reader(padding=0)
    optimizer = torch.optim.AdamW(model.parameters())
    with UsedRows(model, optimizer) as rows:
        for ids in ([1, 2, 0], [2, 9, 9]):
            model(torch.tensor(ids)).backward()
            rows.gather()
            assert model.table.weight.grad is None
            optimizer.step()
            optimizer.zero_grad()
        assert [len(parameter) for parameter in rows.parameters()] == [4, 1, 1]
        assert [name for name, _ in model.named_parameters()] == ["table.weight", "head.weight", "head.bias"]
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


def test_a_step_that_does_not_read_the_table_leaves_it(any_size):
    """As AdamW does with a parameter that has no gradient: no decay, no step."""
    model = Reader(padding=None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    before = model.table.weight.detach().clone()
    with UsedRows(model, optimizer) as rows:
        model.head(torch.ones(WIDTH)).backward()
        rows.gather()
        optimizer.step()
    assert torch.equal(model.table.weight, before)
    assert model.table.weight not in optimizer.state


class Tied(Reader):
    def __init__(self):
        super().__init__(None)
        self.back = nn.Linear(WIDTH, ROWS, bias=False)
        self.back.weight = self.table.weight


@pytest.mark.parametrize("model", [Tied(), Reader(0).requires_grad_(False), nn.Linear(ROWS, WIDTH)])
def test_what_is_tied_frozen_or_no_table_is_left_alone(any_size, model):
    held = [*(p for p in model.parameters() if p.requires_grad), nn.Parameter(torch.ones(1))]
    with UsedRows(model, torch.optim.AdamW(held)) as rows:
        assert rows.parameters() == held


def test_small_tables_are_left_alone():
    model = Reader(0)
    with UsedRows(model, torch.optim.AdamW(model.parameters())) as rows:
        assert rows.parameters() == list(model.parameters())


def test_an_error_in_training_puts_everything_back(any_size):
    model = Reader(0)
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(KeyboardInterrupt), UsedRows(model, optimizer):
        raise KeyboardInterrupt
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    assert not model.table._forward_hooks
