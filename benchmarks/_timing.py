"""Time things side by side: alternate them, repeat, take medians, print ratios."""

import os
import platform
import statistics
import time
from importlib.metadata import version


def alternate(candidates, repeats):
    """Run each candidate `repeats` times in turn, after one run that does not count.

    Every other round goes backwards: what a run leaves behind (busy threads, memory)
    would else always meet the same neighbour.

    Parameters
    ----------
    candidates : dict of str to callable
        What to time; the first is what the others are compared with.
    repeats : int
        Rounds.

    Returns
    -------
    dict of str to float
        Median seconds of each.
    """
    seconds = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for number in range(repeats):
        names = list(candidates)
        for name in reversed(names) if number % 2 else names:
            start = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine():
    """One line about the machine and the versions."""
    import torch

    cores = len(os.sched_getaffinity(0))
    names = ("torch", "torchvision", "scikit-learn", "pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{platform.machine()}, {cores} cores, {torch.get_num_threads()} torch "
        f"threads, Python {platform.python_version()}, {versions}"
    )


def device_name(device):
    """What computes: the name of a GPU, or the device as it was given."""
    import torch

    is_cuda = torch.device(device).type == "cuda"
    return torch.cuda.get_device_name(device) if is_cuda else str(device)


def print_table(header, rows):
    """Print a Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
