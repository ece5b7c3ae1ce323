"""Which strategy, and with which defaults? Accuracy on test sets, and seconds of a fit.

For each development set, with all training images and with 15 % of them: training from
scratch, the frozen network, fine-tuning from each stage on, gradual unfreezing, and the
penalties toward the base network; mean and standard deviation over seeds, which draw
the 15 % and all that is random in training. One image of a small test part is worth
half a percent or more: ``--parts folds`` tests each image once instead.

Each fit is added to the file of ``--results`` as it ends; what stands there already is
not measured again, so a run that was stopped goes on.

``--question rates`` tries learning rates of head and backbone and crops of the training
images with `FineTuning` instead, and ``--question mixing`` where to end between the
probe and what was trained; the defaults were chosen from them.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
from _sets import DATA, SETS, take
from _timing import print_table
from sklearn.model_selection import train_test_split

from sktransfer import (
    Augmentation,
    FeatureExtraction,
    FineTuning,
    GradualUnfreezing,
    ParameterSharing,
    TransferClassifier,
)
from sktransfer._cache.memory import SHARED
from sktransfer.backbones import get_backbone

FEW = 0.15
PARTS = {"few": "15 %", "all": "all", "folds": "five folds of all images"}
WEIGHTS = {"mobilenet_v2": "mobilenet_v2-imagenet-tflite.safetensors"}


def classifier(args, strategy, **params):
    weights = args.weights or "default"
    if args.backbone in WEIGHTS and not args.weights:
        weights = DATA.parent / "weights" / WEIGHTS[args.backbone]
    return TransferClassifier(
        args.backbone,
        strategy=strategy,
        **{
            "weights": weights,
            "image_size": args.size,
            "max_epochs": args.epochs,
            "augmentation": args.augmentation,
            **params,
        },
    )


def strategies(args):
    """Names and classifiers of the table's rows."""
    make = partial(classifier, args)
    stages = [s.name for s in get_backbone(args.backbone).stages if s.n_parameters]
    scratch = FineTuning(backbone_lr_ratio=1.0, init="random", batch_norm="train")
    rows = {
        "scratch": make(scratch, weights=None),
        "FeatureExtraction": make(FeatureExtraction(), augmentation=None),
    }
    for stage in stages[::-1]:
        rows[f"FineTuning({stage!r})"] = make(FineTuning(stage))
    rows["FineTuning('norm')"] = make(FineTuning("norm"))
    rows["GradualUnfreezing()"] = make(GradualUnfreezing())
    for penalty in ("l2_sp", "delta", "bss"):
        rows[f"ParameterSharing({penalty!r})"] = make(ParameterSharing(penalty))
    return rows


def rates(args):
    """Rows that differ in learning rates and crops."""
    rows = {}
    for lr in (1e-4, 3e-4, 1e-3):
        for backbone_lr in (1e-5, 1e-4, 3e-4, 1e-3):
            for crop in args.crops:
                augmentation = Augmentation((crop, 1.0)) if crop else None
                rows[f"head {lr:g}, backbone {backbone_lr:g}, crops {crop}"] = (
                    classifier(
                        args,
                        FineTuning(backbone_lr_ratio=backbone_lr / lr),
                        lr=lr,
                        augmentation=augmentation,
                    )
                )
    return rows


def mixings(args):
    """Rows that differ in what learns, and in how far a fit goes from the probe."""
    frozen = classifier(args, FeatureExtraction(), augmentation=None)
    rows = {"FeatureExtraction": frozen}
    for unfreeze in (1, "all"):
        for mixing in (0.25, 0.5, 0.75, 1.0):
            strategy = FineTuning(unfreeze, mixing=mixing)
            rows[repr(strategy)] = classifier(args, strategy)
    return rows


class Results:
    """Measured fits, one line of JSON each in a file; None keeps them in memory."""

    def __init__(self, path):
        self.path, self.known = path, {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                *key, score, seconds = json.loads(line)
                self.known[tuple(key)] = score, seconds

    def get(self, key, measure):
        """Return what is known of a fit; measure it if nothing is."""
        if key not in self.known:
            self.known[key] = measure()
            if self.path is not None:
                with self.path.open("a") as file:
                    file.write(json.dumps([*key, *self.known[key]]) + "\n")
        return self.known[key]


def measure(model, data, part, seed):
    """Accuracy on test images, and seconds of the fit; both are means over folds."""
    fits = [fit(model, data, *split, seed) for split in splits(data, part, seed)]
    right, seconds = np.sum([f[0] for f in fits]), np.mean([f[1] for f in fits])
    return right / sum(f[2] for f in fits), float(seconds)


def splits(data, part, seed):
    """Rows to train with and rows to test."""
    if part == "folds":
        return data.folds(seed)
    train, test = data.own_split
    if part == "few":
        train, _ = train_test_split(
            train, train_size=FEW, stratify=data.y_train, random_state=seed
        )
    return [(train, test)]


def fit(model, data, train, test, seed):
    """Number of test images that are named right, seconds of the fit, test images."""
    model.set_params(random_state=seed)
    SHARED.clear()  # or the first row of the table would pay for all others
    start = time.perf_counter()
    model.fit(take(data.X, train), data.y[train])
    seconds = time.perf_counter() - start
    right = model.predict(take(data.X, test)) == data.y[test]
    return int(right.sum()), seconds, len(test)


QUESTIONS = {"strategies": strategies, "rates": rates, "mixing": mixings}


def main(args):
    rows = QUESTIONS[args.question](args)
    if args.only:
        rows = {k: v for k, v in rows.items() if any(part in k for part in args.only)}
    parts = [(name, part) for name in args.sets for part in args.parts]
    loaded = {name: SETS[name]() for name in args.sets}
    results, cells = Results(args.results), {}
    setting = f"{args.backbone} {args.size} {args.epochs} {args.augmentation}"
    for name, part in parts:
        for label, model in rows.items():
            fits = [
                results.get(
                    (setting, name, part, label, seed),
                    partial(measure, model, loaded[name], part, seed),
                )
                for seed in range(args.seeds)
            ]
            scores, seconds = zip(*fits, strict=True)
            cell = f"{np.mean(scores):.3f} ± {np.std(scores):.3f}"
            cell = f"{cell}, {np.median(seconds):.0f} s"
            print(f"{name} {part} | {label}: {cell}", flush=True)
            cells[name, part, label] = cell
    header = [f"{name}, {PARTS[part]}" for name, part in parts]
    table = [[label, *(cells[(*p, label)] for p in parts)] for label in rows]
    print_table(["strategy", *header], table)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--question", choices=list(QUESTIONS))
    parser.set_defaults(question="strategies")
    parser.add_argument("--backbone", default="mini")
    parser.add_argument(
        "--weights", help="a file; the default is real ImageNet weights"
    )
    parser.add_argument("--size", type=int, help="image size, px")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--augmentation", default="standard")
    parser.add_argument("--crops", type=float, nargs="+", default=[0.6])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=["few", "all"]
    )
    parser.add_argument("--results", type=Path, help="file of measured fits")
    parser.add_argument(
        "--only", nargs="+", help="rows whose names contain one of these"
    )
    sets = ["ants_bees", "objects10", "cifar10"]
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=sets)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
