"""What a real ImageNet network says about each training image, computed once.

The teacher is the exact MobileNetV2 of `mobilenet_v2-imagenet-tflite-rowsflipped`: its
kernels are turned by 180 degrees, so it wants its images upside down. For every image,
squashed to 160 px, its 1,000 logits and its 1,280 pooled features are stored, as
float16.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torchvision
from augment import normalize, to_float
from data import load_part
from safetensors.torch import load_file


def load_teacher(path):
    model = torchvision.models.mobilenet_v2(weights=None)
    state = {
        k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()
    }
    model.load_state_dict(state)
    return model.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def predict(model, images, size):
    """Yield (logits, features) of uint8 images (n, h, w, 3), 64 at a time."""
    for start in range(0, len(images), 64):
        batch = torch.nn.functional.interpolate(
            to_float(images[start : start + 64].copy()),
            size=(size, size),
            mode="bilinear",
            align_corners=False,
        )
        batch = normalize(batch).flip(-2)
        batch = batch.to(memory_format=torch.channels_last)
        features = model.features(batch).mean((2, 3))
        yield model.classifier(features), features


def main(decoded, weights, size):
    torch.set_flush_denormal(True)
    model = load_teacher(weights)
    images, _ = load_part(decoded, "train")
    for source_size, stack in images.items():
        target = decoded / f"train-{source_size}-teacher-logits.npy"
        if target.exists():
            continue
        logits, features = zip(*predict(model, stack, size), strict=True)
        features = torch.cat(features).half().numpy()
        np.save(decoded / f"train-{source_size}-teacher-features.npy", features)
        np.save(target, torch.cat(logits).half().numpy())
        print(f"{source_size} px: {len(features)} images", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("decoded", type=Path, help="folder written by data.py")
    parser.add_argument("weights", type=Path, help="the teacher's .safetensors file")
    parser.add_argument("--size", type=int, default=160, help="image size, px")
    main(**vars(parser.parse_args()))
