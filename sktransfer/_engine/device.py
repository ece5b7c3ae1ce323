"""Which device computes."""

import torch

from sktransfer._workers import inside_worker, worker_number


def resolve_device(device):
    """Return the device that `device` means.

    Parameters
    ----------
    device : str
        ``"auto"`` is cuda where there is one, else mps, else cpu; parallel workers
        share several CUDA devices evenly. Anything else is torch's own notation, such
        as ``"cuda:1"``.

    Returns
    -------
    torch.device
        An existing device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            n_devices = torch.cuda.device_count()
            device = "cuda"
            if n_devices > 1 and inside_worker():
                device = f"cuda:{choose_cuda(n_devices, worker_number())}"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # CUDA adds lines of advice to those who develop kernels.
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"Parameter device: {device!r} cannot be used here ({reason}). Pass "
            "'auto', 'cpu' or a device this machine has."
        ) from error
    return resolved


def choose_cuda(n_devices, worker):
    """Return the number of the device of a worker: each in turn gets the next."""
    return worker % n_devices
