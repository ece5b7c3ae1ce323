"""Write the trunk of a finished run as `mini.safetensors`, with its card.

A run that started from another carries the card of that one inside its own.
"""

import argparse
import json
from hashlib import sha256
from pathlib import Path

from safetensors.torch import save_file
from train import N_CLASSES, N_FEATURES, load

from sktransfer.backbones._mini import PREPROCESSING

DATA = (
    "59k images of 64 to 84 px from 273 ImageNet classes (mini-ImageNet and "
    "Tiny-ImageNet, without ants and bees)"
)
TEACHER = "MobileNetV2 1.0 at 224 (TensorFlow's quantized release, Apache 2.0)"
LICENCE_NOTE = (
    "Trained on images under ImageNet's terms (non-commercial research), as "
    "torchvision's weights are."
)


def main(run, target, initial_card):
    state = load(run / "checkpoint.pt", "cpu")
    prefix = "features."
    trunk = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in state["student"].items()
        if name.startswith(prefix) and not name.endswith("num_batches_tracked")
    }
    path = target / "mini.safetensors"
    save_file(
        trunk, path, {"sktransfer.preprocessing": json.dumps(PREPROCESSING.to_dict())}
    )
    settings = {
        k: v
        for k, v in state["settings"].items()
        if isinstance(v, int | float | list) or k == "device"
    }
    card = {
        "architecture": "torchvision mobilenet_v3_small, features only",
        "n_features": N_FEATURES,
        "image_size": PREPROCESSING.image_size,
        "larger_size": PREPROCESSING.larger_size,
        "data": DATA,
        "n_classes": N_CLASSES,
        "teacher": TEACHER,
        "settings": settings,
        "epochs": len(state["history"]),
        "validation_accuracy": state["history"][-1]["validation_accuracy"],
        "seconds": round(sum(row["seconds"] for row in state["history"])),
        "versions": state["versions"],
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "licence": LICENCE_NOTE,
    }
    if initial_card:
        card["initial"] = json.loads(initial_card.read_text())
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"{path.stat().st_size} bytes; {card['validation_accuracy']:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of train.py")
    parser.add_argument("target", type=Path, help="folder to write to")
    parser.add_argument(
        "--initial-card", type=Path, help="card of the run that it started from"
    )
    main(**vars(parser.parse_args()))
