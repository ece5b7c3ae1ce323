"""Estimate the statistics of a trained student's batch norms anew, on plain images.

In training all views are mixed, and some are grey or negatives: batch norms have learnt
the statistics of such images. Crops without all that are nearer to what a user has (Wu
and Johnson, "Rethinking 'Batch' in BatchNorm", 2021). No parameter changes.
"""

import argparse
from pathlib import Path

import torch
from augment import Views
from data import Pretraining
from torch import nn
from train import Student, accuracy, load, save

N_BATCHES, BATCH_SIZE = 100, 128


@torch.no_grad()
def estimate_norms(student, data, sizes, seed=0):
    """Average the statistics of some batches, of each size in turn."""
    student.train()
    for layer in student.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the plain average
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    batches = data.batches(BATCH_SIZE, generator)[:N_BATCHES]
    for i, rows in enumerate(batches):
        views = Views(data.stacks(rows))
        student.features(views.pixels(sizes[i % len(sizes)]))


def main(decoded, run):
    device = torch.device("cpu")
    torch.set_flush_denormal(True)
    state = load(run / "checkpoint.pt", device)
    student = Student().to(memory_format=torch.channels_last)
    student.load_state_dict(state["student"])
    sizes = state["settings"]["sizes"]
    estimate_norms(student, Pretraining(decoded, "train", device), sizes)
    state["student"] = student.state_dict()
    found = accuracy(student, Pretraining(decoded, "val", device), max(sizes))
    state["history"][-1]["validation_accuracy"] = found
    print(f"validation accuracy {found:.4f}")
    save(run / "checkpoint.pt", **state)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decoded", type=Path, help="folder of data.py")
    parser.add_argument("run", type=Path, help="folder of train.py")
    main(**vars(parser.parse_args()))
