"""What may be set around a call and must not change what it computes."""

from contextlib import ExitStack, contextmanager

import torch

from sktransfer._engine.threads import threads_of_worker

_DEVICES = ("cpu", "cuda", "mps")


@contextmanager
def own_modes():
    """Compute as if nothing had been set: autocast, inference mode, threads of workers.

    What is computed under an autocast of the user's would be kept as if it were in the
    precision of the estimator, and tensors of inference mode cannot be trained.
    """
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(threads_of_worker())
        yield
