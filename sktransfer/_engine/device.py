"""Which device computes."""

import torch


def resolve_device(device):
    """Return the device that `device` means.

    Parameters
    ----------
    device : str
        ``"auto"`` is cuda where there is one, else mps, else cpu; anything else is
        torch's own notation, such as ``"cuda:1"``.

    Returns
    -------
    torch.device
        An existing device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"Parameter device: {device!r} cannot be used here ({error}). Pass 'auto', "
            "'cpu' or a device this machine has."
        ) from error
    return resolved
