"""What does an epoch of `FineTuning("all")` cost beside a hand-written torch loop?

Both train the same network on the same batches of the same in-memory images: AdamW,
clipped gradients, cosine schedule, statistics of batch norms kept. The hand-written
loop has its images decoded and stacked before the clock starts. With ``--fastai`` and
fastai installed (in an environment of its own where its pins exclude newer torch),
fastai's loop is timed beside them.

Seconds are medians over epochs of alternating runs; the ratio is that of images a
second, 1.0 being the hand-written loop's.
"""

import argparse
import copy
import statistics
import time

import numpy as np
import torch
from _timing import device_name, machine, print_table
from torch import nn
from torch.nn import functional

from sktransfer import FineTuning, TransferClassifier
from sktransfer.backbones._backbone import open_backbone

N_CLASSES = 10


def images(args):
    rng = np.random.default_rng(0)
    shape = (args.n, args.size, args.size, 3)
    return rng.integers(0, 256, shape, dtype=np.uint8), np.arange(args.n) % N_CLASSES


def by_hand(args, X, y):
    """Seconds of each epoch of a plain loop."""
    opened = open_backbone(args.backbone, None, args.size, "auto", 0)
    parts = [*opened.segments(), nn.Linear(opened.n_features, N_CLASSES)]
    device = torch.device(args.device)
    network = nn.Sequential(*parts).to(device, memory_format=torch.channels_last)
    network.requires_grad_(True)
    mean = torch.tensor(opened.preprocessing.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(opened.preprocessing.std, device=device).view(1, 3, 1, 1)
    pixels = torch.from_numpy(X).to(device).permute(0, 3, 1, 2)
    labels = torch.from_numpy(y).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3)
    n_steps = args.epochs * (len(X) // args.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    torch.set_flush_denormal(True)
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
    seconds = []
    for _ in range(args.epochs):
        start = time.perf_counter()
        for rows in torch.randperm(len(X), device=device).split(args.batch_size):
            batch = (pixels[rows].float().div_(255) - mean) / std
            batch = batch.contiguous(memory_format=torch.channels_last)
            enabled = device.type == "cuda"
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                output = network(batch)
            loss = functional.cross_entropy(output.float(), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss.item()
        seconds.append(time.perf_counter() - start)
    torch.set_flush_denormal(False)
    return seconds


def sktransfer(args, X, y):
    """Seconds of each epoch of the package."""
    model = TransferClassifier(
        args.backbone,
        weights=None,
        strategy=FineTuning("all", init="random"),
        image_size=args.size,
        max_epochs=args.epochs,
        batch_size=args.batch_size,
        device=args.device,
        random_state=0,
    )
    return list(model.fit(X, y).history_["seconds"])


def with_fastai(args, X, y):
    """Seconds of each epoch of fastai's loop."""
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    opened = open_backbone(args.backbone, None, args.size, "auto", 0)
    network = nn.Sequential(*opened.segments(), nn.Linear(opened.n_features, N_CLASSES))
    network.requires_grad_(True)
    pixels = torch.from_numpy(X).permute(0, 3, 1, 2)
    pairs = [(x.float() / 255, int(label)) for x, label in zip(pixels, y, strict=True)]
    loader = torch.utils.data.DataLoader(pairs, args.batch_size, shuffle=True)

    class Clock(Callback):
        seconds = []

        def before_train(self):
            self.start = time.perf_counter()

        def after_train(self):
            self.seconds.append(time.perf_counter() - self.start)

    def optimizer(parameters, lr):
        return OptimWrapper(parameters, torch.optim.AdamW, lr=lr)

    clock = Clock()
    loaders = DataLoaders(loader, loader, device=torch.device(args.device))
    learner = Learner(
        loaders, network, nn.CrossEntropyLoss(), optimizer, lr=1e-3, cbs=[clock]
    )
    with learner.no_logging():
        learner.fit(args.epochs)
    return clock.seconds


def main(args):
    X, y = images(args)
    candidates = {"by hand": by_hand, "sktransfer": sktransfer}
    if args.fastai:
        candidates["fastai"] = with_fastai
    seconds = {name: [] for name in candidates}
    for _ in range(args.rounds):
        for name, run in candidates.items():
            # The first epoch of each run warms caches and kernels up.
            seconds[name] += run(copy.copy(args), X, y)[1:]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{machine()}; {device_name(args.device)}")
    rows = [
        [name, f"{s:.2f}", f"{args.n / s:.0f}", f"{medians['by hand'] / s:.2f}"]
        for name, s in medians.items()
    ]
    title = f"{args.backbone}, {args.size} px"
    print_table([title, "seconds an epoch", "images/s", "ratio"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--n", type=int, default=640, help="images")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fastai", action="store_true")
    main(parser.parse_args())
