"""How fast are features, beside other ways to get them?

1. Arrays of the network's own size: against the plain `eval()` and `no_grad()` loop
   that one writes by hand, and with each engine against the engine alone, which is run
   on a batch that is ready.
2. The same from JPEG files, which the plain loop opens one after another.
3. JPEGs of 12 megapixels: against decoding them in full, and how alike features are.
4. Other packages, on 300 photographs from paths; `--peers` names a Python interpreter
   in whose environment embetter[vision] and img2vec_pytorch are installed.

Weights are random, which changes no speed, but those of `mini`: random ones hardly tell
one image from another. The cache is off. With `--device cuda` all networks compute in
bfloat16, the plain loop's too.
"""

import argparse
import copy
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import skimage
import torch
from _sets import DATA
from _timing import alternate, device_name, machine, print_table
from PIL import Image

from sktransfer import FeatureExtractorTransformer
from sktransfer.datasets import load_image_folder

BATCH_SIZE = 32
BACKBONES = [
    "mini",
    "mobilenet_v3_small",
    "resnet18",
    "efficientnet_b0",
    "densenet121",
    "resnet50",
]
# Of small networks more images, or start-up would be most of the time.
MORE = {"mini": 16, "mobilenet_v3_small": 8}
ENGINES = ["eager", "compile", "onnxruntime"]
PARTS = ["arrays", "jpegs", "large", "peers"]
PEERS = Path(__file__).with_name("_peers.py")


def plain_loop(transformer, images):
    """What one writes by hand: one image after the other, then a batch."""
    preprocessing = transformer.backbone_.preprocessing
    device = torch.device(transformer.device)
    network = copy.deepcopy(transformer.backbone_.trunk).to(device)
    mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1)
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def run():
        features = []
        with torch.no_grad(), half:
            for start in range(0, len(images), BATCH_SIZE):
                batch = [
                    torch.from_numpy(preprocessing.pixels(open_rgb(image)).copy())
                    for image in images[start : start + BATCH_SIZE]
                ]
                pixels = torch.stack(batch).to(device).permute(0, 3, 1, 2)
                pixels = pixels.contiguous().float()
                features.append(network((pixels / 255 - mean) / std))
        return torch.cat(features).float().cpu().numpy()

    return run


def engine_alone(transformer, n_images):
    """The network as the engine runs it, on one batch again and again."""
    job = transformer._job(("pooled", "avg"))
    size = transformer.backbone_.preprocessing.image_size
    batch = torch.randn(BATCH_SIZE, 3, size, size, device=transformer.device)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode():
            for _ in range(-(-n_images // BATCH_SIZE)):
                output = job.network(batch)
            output.sum().item()  # until a GPU is done

    return run


def open_rgb(image):
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    return Image.open(image).convert("RGB")


def fitted(name, images, engine="eager", device="cpu"):
    return FeatureExtractorTransformer(
        name,
        weights="default" if name == "mini" else None,  # it is shipped
        cache=None,
        batch_size=BATCH_SIZE,
        engine=engine,
        device=device,
    ).fit(images)


def compare(name, images, repeats, engines, device):
    """One row of a table: images/s of each way, and what is to be compared."""
    candidates = {"plain": plain_loop(fitted(name, images[:1], device=device), images)}
    expected = candidates["plain"]()
    # bfloat16 has three significant digits, in every layer.
    tolerance = 1e-3 if device == "cpu" else 0.05 * float(np.abs(expected).max())
    for engine in engines:
        transformer = fitted(name, images[:1], engine, device)
        np.testing.assert_allclose(
            transformer.transform(images), expected, rtol=1e-3, atol=tolerance
        )
        candidates[engine] = lambda t=transformer: t.transform(images)
        candidates[engine, "alone"] = engine_alone(transformer, len(images))
    rates = {
        key: len(images) / seconds
        for key, seconds in alternate(candidates, repeats).items()
    }
    row = [name, f"{rates['plain']:.1f}"]
    for engine in engines:
        ours, alone = rates[engine], rates[engine, "alone"]
        row += [f"{ours:.1f}", f"{ours / rates['plain']:.2f}", f"{ours / alone:.2f}"]
    return row


def print_comparison(names, images_of, repeats, engines, device):
    header = ["backbone", "plain loop, images/s"]
    for engine in engines:
        header += [f"{engine}, images/s", "x plain", "x engine alone"]
    rows = (compare(name, images_of(name), repeats, engines, device) for name in names)
    print_table(header, rows)


def random_images(n, size):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(n, size, size, 3), dtype=np.uint8)


def arrays_of(name, n):
    return random_images(n * MORE.get(name, 1), 96 if name == "mini" else 224)


def photographs():
    """Photographs of scikit-image, of about half a megapixel."""
    source = Path(skimage.data.__file__).parent
    names = ("astronaut.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    return [Image.open(source / name).convert("RGB") for name in names]


def write_jpegs(n, folder, size=(480, 360)):
    """Write n crops of photographs as JPEG files of one size; return their paths."""
    pictures, rng, paths = photographs(), np.random.default_rng(0), []
    for i in range(n):
        picture = pictures[i % len(pictures)]
        left = int(rng.integers(picture.width - 300))
        top = int(rng.integers(picture.height - 225))
        crop = picture.crop((left, top, left + 300, top + 225)).resize(size)
        paths.append(str(Path(folder, f"{i}.jpg")))
        crop.save(paths[-1], quality=90)
    return paths


def write_large_jpegs(n, folder):
    """The same with 12 megapixels, and with noise, so that they are as large as real
    ones."""
    paths, rng = write_jpegs(n, folder, (4000, 3000)), np.random.default_rng(0)
    for path in paths:
        pixels = np.asarray(Image.open(path)).astype(np.int16)
        pixels += rng.integers(-8, 9, size=pixels.shape, dtype=np.int16)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(path, quality=90)
    return paths


def compare_large(name, paths, repeats):
    """One row: decoding in full against decoding at a reduced scale."""
    transformer = fitted(name, paths[:1])
    in_full = plain_loop(transformer, paths)
    expected, found = in_full(), transformer.transform(paths)
    products = np.einsum("ij,ij->i", expected, found)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    seconds = alternate(
        {"full": in_full, "ours": lambda: transformer.transform(paths)}, repeats
    )
    full, ours = (len(paths) / seconds[key] for key in ("full", "ours"))
    cosine = (products / lengths).min()
    return name, f"{full:.1f}", f"{ours:.1f}", f"{ours / full:.2f}", f"{cosine:.4f}"


def real_jpegs(n, folder):
    """Photographs of the development data, or where they are not here, crops."""
    if not (DATA / "ants_bees").is_dir():
        return write_jpegs(n, folder)
    parts = [load_image_folder(DATA / "ants_bees" / part) for part in ("train", "val")]
    return [str(path) for part in parts for path in part.data["image"]][:n]


def print_peers(python, paths, repeats, engines):
    """One table of packages that compute the features of resnet18 from paths."""
    with subprocess.Popen(
        [python, str(PEERS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(line):
            print(line, file=process.stdin, flush=True)
            return process.stdout.readline()

        installed = json.loads(ask(json.dumps(paths)))
        candidates = {name: lambda name=name: ask(name) for name in installed}
        for engine in engines:
            transformer = fitted("resnet18", paths[:1], engine)
            candidates[f"sktransfer, {engine}"] = lambda t=transformer: t.transform(
                paths
            )
        seconds = alternate(candidates, repeats)
        process.stdin.close()
    for name in sorted({"embetter", "img2vec"}.difference(installed)):
        print(f"{name} is not installed in the environment of {python}.\n")
    best = min((seconds[name] for name in installed), default=float("nan"))
    print_table(
        ["resnet18 from paths", "images/s", "x the faster of the other packages"],
        [(k, f"{len(paths) / s:.1f}", f"{best / s:.2f}") for k, s in seconds.items()],
    )


def main(images, repeats, backbones, engines, parts, large, peers, device):
    print(f"{machine()}; median of {repeats} alternating runs, batch {BATCH_SIZE}")
    print(f"{device_name(device)}\n")
    if "arrays" in parts:
        more = ", ".join(f"{times} times as many of {n}" for n, times in MORE.items())
        print(f"{images} arrays of the network's own size; {more}\n")
        print_comparison(
            backbones, lambda name: arrays_of(name, images), repeats, engines, device
        )
    few = [name for name in ("mini", "mobilenet_v3_small") if name in backbones]
    with tempfile.TemporaryDirectory() as folder:
        if "jpegs" in parts:
            print("\n300 JPEG files of 480x360 pixels\n")
            paths = write_jpegs(300, folder)
            print_comparison(few, lambda _: paths, repeats, engines, device)
        if "large" in parts:
            print(f"\n{large} JPEG files of 4000x3000 pixels\n")
            paths = write_large_jpegs(large, folder)
            header = ["backbone", "full decode, images/s", "sktransfer, images/s"]
            header += ["x full", "smallest cosine"]
            print_table(header, [compare_large(name, paths, repeats) for name in few])
        if "peers" in parts and peers is None:
            print("\nOther packages are left out: --peers PYTHON is not given.")
        elif "peers" in parts:
            print("\n300 photographs from paths\n")
            print_peers(peers, real_jpegs(300, folder), repeats, engines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--large", type=int, default=24, help="number of large JPEGs")
    parser.add_argument("--peers", help="Python with embetter and img2vec_pytorch")
    parser.add_argument("--device", default="cpu", help="for arrays and jpegs")
    main(**vars(parser.parse_args()))
