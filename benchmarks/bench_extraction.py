"""How much faster are features than with the plain `eval()` and `no_grad()` loop?

Both get the same images and the same preprocessing; weights are random, which changes
no speed. The cache is off. The second table reads JPEG files from paths, which the
plain loop opens one after another.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import skimage
import torch
from _timing import alternate, machine, print_table
from PIL import Image

from sktransfer import FeatureExtractorTransformer

BATCH_SIZE = 32
BACKBONES = [
    "mini",
    "mobilenet_v3_small",
    "resnet18",
    "efficientnet_b0",
    "densenet121",
    "resnet50",
]


def plain_loop(transformer, images):
    """What one writes by hand: one image after the other, then a batch."""
    network, preprocessing = (
        transformer.backbone_.trunk,
        (transformer.backbone_.preprocessing),
    )
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1)

    def run():
        features = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH_SIZE):
                batch = [
                    torch.from_numpy(preprocessing.pixels(open_rgb(image)).copy())
                    for image in images[start : start + BATCH_SIZE]
                ]
                pixels = torch.stack(batch).permute(0, 3, 1, 2).contiguous().float()
                features.append(network((pixels / 255 - mean) / std))
        return torch.cat(features).numpy()

    return run


def open_rgb(image):
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    return Image.open(image).convert("RGB")


def compare(name, images, repeats):
    """One row of a table: images/s of both, and the ratio."""
    transformer = FeatureExtractorTransformer(
        name, weights=None, cache=None, batch_size=BATCH_SIZE
    ).fit(images)
    loop = plain_loop(transformer, images)
    np.testing.assert_allclose(
        loop(), transformer.transform(images), rtol=1e-3, atol=1e-3
    )
    seconds = alternate(
        {"plain": loop, "sktransfer": lambda: transformer.transform(images)}, repeats
    )
    size = transformer.backbone_.preprocessing.image_size
    plain, ours = (len(images) / seconds[key] for key in ("plain", "sktransfer"))
    return name, size, f"{plain:.1f}", f"{ours:.1f}", f"{ours / plain:.2f}"


def random_images(n, size):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(n, size, size, 3), dtype=np.uint8)


def write_jpegs(n, folder):
    """Cut n photographs of 480x360 pixels out of scikit-image's."""
    source = Path(skimage.data.__file__).parent
    names = ("astronaut.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    photographs = [Image.open(source / name).convert("RGB") for name in names]
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        photograph = photographs[i % len(photographs)]
        left = int(rng.integers(photograph.width - 300))
        top = int(rng.integers(photograph.height - 225))
        crop = photograph.crop((left, top, left + 300, top + 225)).resize((480, 360))
        paths.append(str(Path(folder, f"{i}.jpg")))
        crop.save(paths[-1], quality=90)
    return paths


def main(images, repeats, backbones):
    header = ["backbone", "px", "plain loop, images/s", "sktransfer, images/s", "ratio"]
    print(f"{machine()}; median of {repeats} alternating runs, batch {BATCH_SIZE}\n")
    print(f"{images} arrays of the network's own size\n")
    rows = []
    for name in backbones:
        size = 96 if name == "mini" else 224
        n = images * 8 if name == "mini" else images
        rows.append(compare(name, random_images(n, size), repeats))
    print_table(header, rows)
    print("\n300 JPEG files of 480x360 pixels\n")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(300, folder)
        names = [name for name in ("mini", "mobilenet_v3_small") if name in backbones]
        print_table(header, [compare(name, paths, repeats) for name in names])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    main(**vars(parser.parse_args()))
