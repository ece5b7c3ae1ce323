"""Fine-tune the teacher on the small, blurred images it is to speak about.

MobileNetV2 saw sharp photographs: of the pretraining images, enlarged from 64 and
84 px, it names 42 %, chosen among the 273 classes. A short fine-tuning on their labels
makes its answers worth imitating. Only the logits of these classes enter the loss, so
the other 727, which the student imitates too, are not pushed down.

The run stops and resumes at ends of epochs.
"""

import argparse
import csv
import json
import math
import time
from pathlib import Path

import torch
import torchvision
from augment import normalize
from data import Pretraining
from safetensors.torch import save_file
from teacher import load_teacher
from torch.nn import functional


def imagenet_rows(classes):
    """Index among ImageNet's 1,000 classes of each of the 273 labels."""
    names = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    index = {name.lower(): i for i, name in enumerate(names)}
    with open(classes, newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["label"]))
    return torch.tensor([index[row["name"].lower()] for row in rows])


@torch.inference_mode()
def accuracy(model, data, columns, size):
    model.eval()
    hits = 0
    for rows in torch.arange(len(data)).split(128):
        batch = torch.cat(
            [
                functional.interpolate(x, size=(size, size), mode="bilinear")
                for x in data.pixels(rows)
            ]
        )
        logits = model(normalize(batch).flip(-2))[:, columns]
        hits += int((logits.argmax(1) == data.labels[rows]).sum())
    return hits / len(data)


def train_epoch(model, optimizer, data, columns, epoch, args):
    model.train()
    n_batches = len(data) // args.batch_size
    n_steps, total = args.epochs * n_batches, 0.0
    torch.manual_seed(args.seed * 10_000 + epoch)
    batches = data.batches(epoch, args.seed, args.batch_size, [args.size], (0.35, 1.2))
    for i, (rows, batch) in enumerate(batches):
        step = epoch * n_batches + i
        share = (
            min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        )
        for group in optimizer.param_groups:
            group["lr"] = args.lr * share
        loss = functional.cross_entropy(
            model(batch.flip(-2))[:, columns], data.labels[rows], label_smoothing=0.1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if i % 100 == 99:
            print(f"epoch {epoch}, step {i + 1}: {total / (i + 1):.3f}", flush=True)


def main(args):
    torch.set_flush_denormal(True)
    torch.set_num_threads(args.threads)
    data = Pretraining(args.decoded, "train")
    validation = Pretraining(args.decoded, "val")
    columns = imagenet_rows(args.classes)
    model = load_teacher(args.weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.02)
    checkpoint, first = args.target.with_suffix(".checkpoint"), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epochs"]
    else:
        before = accuracy(model, validation, columns, args.size)
        print(json.dumps({"epoch": None, "validation_accuracy": before}), flush=True)
    for epoch in range(first, args.epochs):
        start = time.perf_counter()
        train_epoch(model, optimizer, data, columns, epoch, args)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**state, "epochs": epoch + 1}, checkpoint)
        row = {
            "epoch": epoch,
            "validation_accuracy": accuracy(model, validation, columns, args.size),
            "seconds": round(time.perf_counter() - start),
        }
        print(json.dumps(row), flush=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, args.target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decoded", type=Path, help="folder of data.py")
    parser.add_argument("classes", type=Path, help="classes.csv of the images")
    parser.add_argument("weights", type=Path, help="the teacher's .safetensors file")
    parser.add_argument("target", type=Path, help=".safetensors file to write")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=128, help="image size, px")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    main(parser.parse_args())
