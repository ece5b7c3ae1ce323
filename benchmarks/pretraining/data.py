"""The 64,398 small ImageNet images as two uint8 arrays, decoded once.

The images come in two sizes (84 and 64 px). They stay at their own size on disk and in
memory; the random resized crop of the training loop is what brings them to the size of
the network, so no image is resampled twice.
"""

import argparse
import io
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SIZES = (64, 84)


def decode_file(path):
    """Return ({size: images}, {size: labels}) of one file of WebP images."""
    archive = np.load(path)
    data, offset = archive["data"], archive["offset"]
    images, labels = ({size: [] for size in SIZES} for _ in range(2))
    for i, label in enumerate(archive["label"]):
        encoded = io.BytesIO(data[offset[i] : offset[i + 1]].tobytes())
        image = np.asarray(Image.open(encoded).convert("RGB"))
        size = max(image.shape[:2])
        if image.shape[:2] != (size, size):
            raise ValueError(f"{path.name}: image {i} is not square")
        images[size].append(image)
        labels[size].append(label)
    return images, labels


def decode(source, target):
    """Decode every WebP image of the npz files into {train,val}-{64,84}.npy."""
    target.mkdir(parents=True, exist_ok=True)
    files = {"train": sorted(source.glob("train-*.npz")), "val": [source / "val.npz"]}
    with ProcessPoolExecutor() as pool:
        for part, paths in files.items():
            decoded = list(pool.map(decode_file, paths))
            for size in SIZES:
                images = [image for images, _ in decoded for image in images[size]]
                labels = [label for _, labels in decoded for label in labels[size]]
                np.save(target / f"{part}-{size}.npy", np.stack(images))
                np.save(target / f"{part}-{size}-label.npy", np.array(labels))
                print(f"{part}: {len(images)} images of {size} px")


class Pretraining:
    """One part of the images: a stack of uint8 (n, s, s, 3) and labels of each size."""

    def __init__(self, folder, part, device):
        def load(name):
            return torch.from_numpy(np.load(folder / name)).to(device)

        self.images = [load(f"{part}-{size}.npy") for size in SIZES]
        self.labels = [load(f"{part}-{size}-label.npy").long() for size in SIZES]

    def __len__(self):
        return sum(map(len, self.labels))

    def stacks(self, rows):
        """Images of `rows`, which are given for each size."""
        return [x[r] for x, r in zip(self.images, rows, strict=True)]

    def batches(self, batch_size, generator):
        """Rows of each size for each batch of an epoch, shuffled.

        Each batch has as many images of each size as every other.
        """
        n_batches = len(self) // batch_size
        parts = []
        for labels in self.labels:
            n = len(labels) // n_batches
            order = torch.randperm(len(labels), generator=generator)
            order = order[: n_batches * n].view(n_batches, n)
            parts.append(order.to(labels.device))
        return list(zip(*parts, strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with train-*.npz and val.npz")
    parser.add_argument("target", type=Path, help="folder for the decoded arrays")
    decode(**vars(parser.parse_args()))
