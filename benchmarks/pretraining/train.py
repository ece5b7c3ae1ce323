"""Train `mini`: torchvision's mobilenet_v3_small trunk, taught by MobileNetV2.

Three losses share the 576 pooled features: cross-entropy on the 273 labels, the
teacher's softened probabilities over its 1,000 classes (Hinton et al. 2015), and its
standardized pooled features through a linear map (FitNets, Romero et al. 2015). What is
shipped is the exponential moving average of the trunk; the heads are thrown away.

The run stops and resumes at ends of epochs; everything random in epoch e is drawn from
(seed, e), so a resumed run sees the same crops as one that was not stopped. Under
`torchrun --nproc-per-node 2` two processes of one thread each share every batch, which
is faster here than two threads in one.
"""

import argparse
import copy
import json
import math
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision
from augment import normalize
from data import Pretraining, TaughtImages, batches
from safetensors.torch import load_file
from torch import distributed as dist
from torch import nn
from torch.nn import functional
from views import TaughtViews

N_FEATURES, N_CLASSES = 576, 273


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = torchvision.models.mobilenet_v3_small(weights=None).features
        self.labels = nn.Linear(N_FEATURES, N_CLASSES)
        self.teacher_classes = nn.Linear(N_FEATURES, 1000)
        self.teacher_features = nn.Linear(N_FEATURES, 1280)

    def forward(self, batch):
        pooled = self.features(batch).mean((2, 3))
        return (
            self.labels(pooled),
            self.teacher_classes(pooled),
            self.teacher_features(pooled),
        )


def distillation_loss(outputs, batch, scaler, args):
    labels, classes, features = outputs
    temperature = args.temperature
    target = (batch.logits / temperature).softmax(1)
    soft = functional.kl_div(
        (classes / temperature).log_softmax(1), target, reduction="batchmean"
    )
    mean, scale = scaler
    regression = functional.mse_loss(features, (batch.features - mean) / scale)
    hard = functional.cross_entropy(labels, batch.labels)
    return (
        args.soft_weight * temperature**2 * soft
        + args.feature_weight * regression
        + args.label_weight * hard
    )


@torch.inference_mode()
def accuracy(student, data, size):
    student.eval()
    hits = 0
    for rows in torch.arange(len(data)).split(256):
        batch = [
            functional.interpolate(
                x, size=(size, size), mode="bilinear", align_corners=False
            )
            for x in data.pixels(rows)
        ]
        labels = student(normalize(torch.cat(batch)))[0]
        hits += int((labels.argmax(1) == data.labels[rows]).sum())
    return hits / len(data)


def learning_rate(step, n_steps, args):
    warm_up = max(1, round(n_steps * 0.05))
    if step < warm_up:
        return args.lr * (step + 1) / warm_up
    share = (step - warm_up) / max(1, n_steps - warm_up)
    return args.lr * 0.5 * (1 + math.cos(math.pi * share))


def update_average(average, student, decay):
    with torch.no_grad():
        state = student.state_dict()
        for name, value in average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(state[name], 1 - decay)
            else:
                value.copy_(state[name])


def save(path, **content):
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def train_epoch(student, average, optimizer, data, epoch, args):
    student.train()
    rank, world = dist.get_rank(), dist.get_world_size()
    n_batches = len(data) // args.batch_size
    total = 0.0
    torch.manual_seed(args.seed * 10_000 + epoch)
    stream = batches(data, epoch, args.seed, args.batch_size, args.sizes, (rank, world))
    for i, batch in enumerate(stream):
        step = epoch * n_batches + i
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.epochs * n_batches, args)
        loss = distillation_loss(student(batch.pixels), batch, data.scaler, args)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        update_average(average, student.module, min(args.ema, (1 + step) / (10 + step)))
        total += loss.item()
    return total / n_batches


def load_data(args):
    if args.views:
        return TaughtViews(args.decoded, args.views, args.teacher, N_CLASSES)
    return TaughtImages(args.decoded, N_CLASSES)


def main(args):
    torch.set_flush_denormal(True)
    torch.set_num_threads(args.threads)
    args.run.mkdir(parents=True, exist_ok=True)
    data = load_data(args)
    validation = Pretraining(args.decoded, "val")
    torch.manual_seed(args.seed)
    student = Student().to(memory_format=torch.channels_last)
    if args.initial:
        trunk = {name: value.float() for name, value in load_file(args.initial).items()}
        student.load_state_dict(trunk, strict=False)
    average = copy.deepcopy(student)
    student = nn.parallel.DistributedDataParallel(student)
    decayed = [p for p in student.parameters() if p.ndim > 1]
    plain = [p for p in student.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": args.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=args.lr,
    )
    checkpoint, history = args.run / "checkpoint.pt", []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        student.module.load_state_dict(state["student"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
    for epoch in range(len(history), args.epochs):
        start = time.perf_counter()
        loss = train_epoch(student, average, optimizer, data, epoch, args)
        if dist.get_rank() > 0:
            continue
        row = {
            "epoch": epoch,
            "loss": loss,
            "validation_accuracy": accuracy(average, validation, max(args.sizes)),
            "seconds": time.perf_counter() - start,
        }
        history.append(row)
        print(json.dumps(row), flush=True)
        save(
            checkpoint,
            student=student.module.state_dict(),
            average=average.state_dict(),
            optimizer=optimizer.state_dict(),
            history=history,
            settings={
                k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()
            }
            | {"processes": dist.get_world_size()},
        )


@contextmanager
def process_group():
    """The processes of torchrun, or this one alone."""
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decoded", type=Path, help="folder of data.py and teacher.py")
    parser.add_argument("run", type=Path, help="folder for the checkpoint")
    for name, default in {
        "epochs": 20,
        "batch-size": 64,
        "seed": 0,
        "threads": torch.get_num_threads(),
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in {
        "lr": 2e-3,
        "weight-decay": 0.02,
        "temperature": 2.0,
        "soft-weight": 0.5,
        "feature-weight": 1.0,
        "label-weight": 0.5,
        "ema": 0.9995,
    }.items():
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--sizes", type=int, nargs="+", default=[80, 96, 112, 128])
    parser.add_argument(
        "--views", type=int, default=0, help="how many views.py made; 0: whole images"
    )
    parser.add_argument("--teacher", type=Path, help="the weights views.py was given")
    parser.add_argument("--initial", type=Path, help="weights to start from")
    args = parser.parse_args()
    if bool(args.views) != bool(args.teacher):
        parser.error("--views and --teacher go together")
    return args


if __name__ == "__main__":
    with process_group():
        main(parse_args())
