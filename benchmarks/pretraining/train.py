"""Train `mini`: torchvision's mobilenet_v3_small trunk, taught by MobileNetV2.

Teacher and student see the same view of an image, another one in every epoch (Beyer et
al., "Knowledge distillation: A good teacher is patient and consistent", 2022). Three
losses share the 576 pooled features: cross-entropy on the 273 labels, the teacher's
softened probabilities over its 1,000 classes (Hinton et al. 2015), and its standardized
pooled features through a linear map (FitNets, Romero et al. 2015). What is shipped is
the trunk; the heads are thrown away.

The run stops and resumes at ends of epochs; everything random in epoch e is drawn from
(seed, e), so a resumed run sees the same views as one that was not stopped.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torchvision
from augment import normalize, to_float
from data import Pretraining
from step import Step, autocast
from teacher import Teacher
from torch import nn
from torch.nn import functional

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
        heads = (self.labels, self.teacher_classes, self.teacher_features)
        return [head(pooled).float() for head in heads]


@torch.inference_mode()
def accuracy(student, data, size):
    student.eval()
    hits = 0
    for images, labels in zip(data.images, data.labels, strict=True):
        for rows in torch.arange(len(labels), device=labels.device).split(256):
            batch = functional.interpolate(
                to_float(images[rows]), size=(size, size), mode="bilinear"
            )
            with autocast(labels.device):
                found = student(normalize(batch))[0].argmax(1)
            hits += int((found == labels[rows]).sum())
    return hits / len(data)


def learning_rate(step, n_steps, args):
    warm_up = max(1, round(n_steps * 0.05))
    if step < warm_up:
        return args.lr * (step + 1) / warm_up
    share = (step - warm_up) / max(1, n_steps - warm_up)
    return args.lr * 0.5 * (1 + math.cos(math.pi * share))


def train_epoch(step, epoch, args):
    step.student.train()
    seed = args.seed * 10_000 + epoch
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    batches = step.data.batches(args.batch_size, generator)
    sizes = torch.randint(len(args.sizes), (len(batches),), generator=generator)
    total = 0.0
    for i, (rows, size) in enumerate(zip(batches, sizes.tolist(), strict=True)):
        done, n_steps = epoch * len(batches) + i, args.epochs * len(batches)
        for group in step.optimizer.param_groups:
            group["lr"].fill_(learning_rate(done, n_steps, args))
        total = total + step(rows, args.sizes[size])
    return float(total) / len(batches)


def make_optimizer(student, args, device):
    decayed = [p for p in student.parameters() if p.ndim > 1]
    plain = [p for p in student.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": args.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=torch.tensor(args.lr, device=device),  # a recorded step reads it there
        fused=True,
        capturable=device.type == "cuda",
    )


def load(path, device):
    return torch.load(path, weights_only=True, map_location=device)


def save(path, **content):
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def main(args):
    device = torch.device(args.device)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True
    args.run.mkdir(parents=True, exist_ok=True)
    data = Pretraining(args.decoded, "train", device)
    validation = Pretraining(args.decoded, "val", device)
    teacher = Teacher(args.teacher, device)
    torch.manual_seed(args.seed)
    student = Student().to(device, memory_format=torch.channels_last)
    if args.initial:
        student.load_state_dict(load(args.initial, device)["student"])
    optimizer = make_optimizer(student, args, device)
    checkpoint, history = args.run / "checkpoint.pt", []
    if checkpoint.exists():
        state = load(checkpoint, device)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
    step = Step(data, teacher, student, optimizer, args)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    for epoch in range(len(history), args.epochs):
        start = time.perf_counter()
        loss = train_epoch(step, epoch, args)
        row = {
            "epoch": epoch,
            "loss": loss,
            "validation_accuracy": accuracy(student, validation, max(args.sizes)),
            "seconds": time.perf_counter() - start,
        }
        history.append(row)
        print(json.dumps(row), flush=True)
        save(
            checkpoint,
            student=student.state_dict(),
            optimizer=optimizer.state_dict(),
            history=history,
            settings=settings,
            versions={m.__name__: str(m.__version__) for m in (torch, torchvision)},
        )


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decoded", type=Path, help="folder of data.py")
    parser.add_argument("teacher", type=Path, help="the teacher's .safetensors file")
    parser.add_argument("run", type=Path, help="folder for the checkpoint")
    numbers = {
        "epochs": 75,
        "batch-size": 512,
        "seed": 0,
        "teacher-size": 128,
        "lr": 3e-3,
        "weight-decay": 0.02,
        "temperature": 2.0,
        "soft-weight": 0.5,
        "feature-weight": 1.0,
        "label-weight": 0.5,
        "mixed": 1.0,
        "grey": 0.15,
        "negative": 0.1,
    }
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--sizes", type=int, nargs="+", default=[80, 96, 112, 128])
    parser.add_argument("--initial", type=Path, help="checkpoint to start from")
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
