"""The 64,398 small ImageNet images as two uint8 arrays, decoded once.

The images come in two sizes (84 and 64 px). They stay at their own size on disk and in
memory; the random resized crop of the training loop is what brings them to the size of
the network, so no image is resampled twice.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image


def decode(source, target):
    """Decode every WebP image of the npz files into {train,val}-{64,84}.npy."""
    target.mkdir(parents=True, exist_ok=True)
    files = {"train": sorted(source.glob("train-*.npz")), "val": [source / "val.npz"]}
    for part, paths in files.items():
        images, labels = {64: [], 84: []}, {64: [], 84: []}
        for path in paths:
            archive = np.load(path)
            data, offset = archive["data"], archive["offset"]
            for i, label in enumerate(archive["label"]):
                encoded = io.BytesIO(data[offset[i] : offset[i + 1]].tobytes())
                image = np.asarray(Image.open(encoded).convert("RGB"))
                size = max(image.shape[:2])
                if image.shape[:2] != (size, size):
                    raise ValueError(f"{path.name}: image {i} is not square")
                images[size].append(image)
                labels[size].append(label)
        for size, stack in images.items():
            np.save(target / f"{part}-{size}.npy", np.stack(stack))
            np.save(target / f"{part}-{size}-label.npy", np.array(labels[size]))
            print(f"{part}: {len(stack)} images of {size} px")


def load_part(folder, part):
    """Return ({size: images}, {size: labels}) of a decoded part."""
    images = {s: np.load(folder / f"{part}-{s}.npy", mmap_mode="r") for s in (64, 84)}
    labels = {s: np.load(folder / f"{part}-{s}-label.npy") for s in (64, 84)}
    return images, labels


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with train-*.npz and val.npz")
    parser.add_argument("target", type=Path, help="folder for the decoded arrays")
    decode(**vars(parser.parse_args()))
