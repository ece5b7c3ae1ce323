"""The callback that keeps the best weights: what counts as better, and as worse."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skorch.history import History

from sktransfer._engine.validation import BestWeights


class Module:
    """Its weights are a number, so that it shows which ones were kept."""

    def __init__(self):
        self.number = 0

    def snapshot(self):
        return {"number": torch.tensor(self.number)}

    def restore(self, state):
        self.number = int(state["number"])


class Net:
    def __init__(self):
        self.module_, self.history = Module(), History()

    def mean_loss(self, dataset, on_batch):
        for batch in dataset:
            on_batch(batch=batch, loss=torch.tensor(0.0), y_pred=(batch[0],))
        return float(sum(len(batch[0]) for batch in dataset))


def batch_of(numbers, n_heads=1):
    """A batch whose outputs are these numbers; targets and weights say which rows."""
    outputs = torch.tensor(numbers, dtype=torch.float32)[:, None]
    weights = torch.ones(len(numbers), n_heads)
    return outputs, ([torch.tensor(numbers)] * n_heads, weights)


def mean(outputs, targets, weights):
    return float(outputs[0].mean())


def run(scores, losses=None, patience=100, tol=0.0, best=None):
    """Epochs with these scores; stops when patience is at an end."""
    net = Net()
    best = BestWeights(mean, patience, tol) if best is None else best
    losses = [1.0] * len(scores) if losses is None else losses
    for number, (score, loss) in enumerate(zip(scores, losses, strict=True), 1):
        net.module_.number = number
        net.history.new_epoch()
        net.history.record("valid_loss", loss)
        batch = batch_of([score])
        best.on_batch_end(net, batch=batch, training=False, y_pred=(batch[0],))
        best.on_epoch_end(net)
        if best.exhausted:
            break
    return net, best


def kept(net, best):
    best.restore(net)
    return net.module_.number


def test_weights_of_the_highest_score_are_kept():
    net, best = run([0.1, 0.5, 0.4])
    assert best.best_score == 0.5
    assert kept(net, best) == 2
    assert [row["valid_score"] for row in net.history] == pytest.approx([0.1, 0.5, 0.4])


def test_among_equal_scores_the_lower_loss_decides():
    assert kept(*run([0.5, 0.5, 0.5], [0.3, 0.2, 0.25])) == 2


def test_lower_loss_does_not_prolong_patience():
    net, best = run([0.5] * 9, np.linspace(1, 0, 9).tolist(), patience=3)
    assert len(net.history) == 4
    assert kept(net, best) == 4


def test_difference_below_the_tolerance_is_no_improvement():
    net, best = run([0.5, 0.55, 0.58, 0.59], patience=3, tol=0.1)
    assert best.exhausted
    assert len(net.history) == 4


def test_patience_counts_epochs_since_the_last_improvement():
    net, best = run([0.1, 0.2, 0.2, 0.3, 0.3, 0.3, 0.9], patience=2)
    assert len(net.history) == 6
    best.begin_phase()
    assert not best.exhausted


def test_nan_never_wins():
    net, best = run([0.5, float("nan"), float("nan")], [1.0, float("nan"), 0.1])
    assert kept(net, best) == 1


def test_training_batches_are_not_judged():
    net, best = Net(), BestWeights(mean, 1, 0.0)
    net.history.new_epoch()
    net.history.record("valid_loss", 1.0)
    for score, training in ((0.2, False), (0.9, True), (0.4, False)):
        batch = batch_of([score])
        best.on_batch_end(net, batch=batch, training=training, y_pred=(batch[0],))
    best.on_epoch_end(net)
    assert best.best_score == pytest.approx(0.3)


def test_score_gets_all_rows_of_all_heads_in_order():
    seen = []
    best = BestWeights(lambda *parts: seen.append(parts) or 0.5, 1, 0.0)
    net = Net()
    net.history.new_epoch()
    net.history.record("valid_loss", 1.0)
    for numbers in ([1, 2], [3]):
        batch = batch_of(numbers, n_heads=2)
        outputs = (batch[0], -batch[0])
        best.on_batch_end(net, batch=batch, training=False, y_pred=outputs)
    best.on_epoch_end(net)
    ((outputs, targets, weights),) = seen
    assert [o[:, 0].tolist() for o in outputs] == [[1, 2, 3], [-1, -2, -3]]
    assert [t.tolist() for t in targets] == [[1, 2, 3], [1, 2, 3]]
    assert weights.shape == (3, 2)


def test_probe_is_a_candidate_with_its_mean_loss():
    net, best = Net(), BestWeights(mean, 1, 0.0)
    best.try_start(net, [batch_of([0.6, 0.6, 0.6]), batch_of([0.2])], is_probe=True)
    assert best.probe_score == best.best_score == pytest.approx(0.5)
    assert best.best_loss == 4.0  # as the net says
    _, best = run([0.4, 0.45], best=best)
    assert kept(net, best) == 0
    assert best.best_score == best.probe_score


def test_state_survives_a_round_trip():
    net, best = run([0.1, 0.5, 0.4])
    best.probe_score = 0.3
    other = BestWeights(mean, 100, 0.0)
    other.load_state_dict(best.state_dict())
    assert vars(other).keys() == vars(best).keys()
    assert other.n_without_gain == 1
    assert other.probe_score == 0.3
    assert kept(net, other) == 2


def test_kept_weights_do_not_follow_the_module():
    parameters = SimpleNamespace(value=torch.ones(1))

    class Live(Module):
        def snapshot(self):
            return {"number": parameters.value.clone()}

    net, best = Net(), BestWeights(mean, 1, 0.0)
    net.module_ = Live()
    best.try_start(net, [batch_of([0.5])], is_probe=True)
    parameters.value += 1
    assert best.best_state["number"].item() == 1


def test_tolerance_decides_when_to_stop_not_which_weights_are_kept():
    best = BestWeights(lambda outputs, targets, weights: outputs[0], 3, tol=0.5)
    for name, value in {
        "best_score": 0.9,
        "gained_score": 0.9,
        "best_loss": 1.0,
    }.items():
        setattr(best, name, value)
    best.best_state = "kept"
    best._seen = [([torch.tensor([0.8])], [torch.tensor([0.0])], torch.ones(1, 1))]
    best._take(None, 0.1)
    assert best.best_state == "kept"
    assert best.best_score == 0.9
