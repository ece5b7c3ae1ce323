"""What are the features of `mini` worth on images it never saw?

Accuracy on the test part of seven development sets, with few labels (10 a class, leaf
3) and with all: a frozen network with the default head, against raw pixels and HOG with
classical models, the same network untrained, and larger networks with real ImageNet
weights where `../shared/weights` is there. Few labels are drawn with five seeds, and
so are the untrained network's weights: mean and standard deviation. What has no spread
is the same under every seed.

One image of a test part of 75 to 200 is .005 to .013, and what such a part says lies
within .03 or .05 of the truth: for those sets a third column has the mean over five
folds of all images, drawn four times.

`--question` asks for another table: which `C`, which `image_size` and `resize`, or
which layer serves best.
"""

import argparse
from functools import cache, partial

import numpy as np
from _sets import DATA, SETS, take
from _timing import print_table
from PIL import Image
from safetensors.torch import load_file
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from torch import nn
from torchvision.models import mobilenet_v3_small
from torchvision.models.feature_extraction import create_feature_extractor

from sktransfer import FeatureExtraction, TransferClassifier
from sktransfer._images.inputs import input_kind, read_items, read_pixels
from sktransfer.backbones._mini import PATH

SEEDS = range(5)
REPEATS = 4
FEW_TO_TEST = 200
WEIGHTS = DATA.parent / "weights"
LARGER = {
    "squeezenet1_1": "squeezenet1_1-imagenet-ncnn.safetensors",
    "mobilenet_v2": "mobilenet_v2-imagenet-tflite.safetensors",
}
# Images that are small themselves gain nothing from 224 px, and 5,000 take minutes.
SIZE_OF_LARGER = {"cifar10": 128, "digits": 128}


def small_images(size, mode, X):
    """Bring any kind of X to arrays of size x size pixels."""
    images = (read_pixels if input_kind(X) == "pixels" else read_items)(X, None)
    small = []
    for row in range(len(images)):
        item = images[row]
        image = item.decode(item.load()[0], 2 * size)
        if isinstance(image, np.ndarray):
            image = Image.fromarray((255 * image).clip(0, 255).astype(np.uint8))
        small.append(np.asarray(image.convert(mode).resize((size, size))))
    return np.stack(small)


def pixels(X):
    return small_images(32, "RGB", X).reshape(len(X), -1)


def gradients(X):
    return np.stack([hog(image) for image in small_images(64, "L", X)])


def classical(features, model, data):
    """Evaluate a classical model on features that are computed once."""
    X = FunctionTransformer(features).transform(data.X)

    def score(train, test, _seed):
        model.fit(X[train], data.y[train])
        return model.score(X[test], data.y[test])

    return summary(score, data)


def network(data, untrained=False, **parameters):
    """Evaluate a frozen network; the cache computes each image once."""

    def score(train, test, seed):
        seeded = {"weights": None, "random_state": seed} if untrained else {}
        model = TransferClassifier(**parameters, **seeded)
        model.fit(take(data.X, train), data.y[train])
        return model.score(take(data.X, test), data.y[test])

    return summary(score, data, all_seeds=untrained)


def summary(score, data, all_seeds=False):
    """Three cells: few labels, all, and folds where few images are tested."""
    train, test = data.own_split
    few = [score(data.subset(seed), test, seed) for seed in SEEDS]
    full = [score(train, test, seed) for seed in (SEEDS if all_seeds else [0])]
    if len(test) > FEW_TO_TEST:
        return cell(few), cell(full), ""
    folds = [
        np.mean([score(*split, seed) for split in data.folds(seed)])
        for seed in range(REPEATS)
    ]
    return cell(few), cell(full), cell(folds)


def cell(scores):
    spread = f" ± {np.std(scores):.3f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.3f}{spread}"


@cache
def load(name):
    return SETS[name]()


def ways(name, weights):
    """Name of each way, and a function from data to its three cells."""
    regression = LogisticRegression(C=0.01, max_iter=5000)
    yield (
        "pixels + logistic regression",
        partial(classical, pixels, make_pipeline(StandardScaler(), regression)),
    )
    yield "HOG + linear SVM", partial(classical, gradients, LinearSVC(max_iter=20_000))
    yield "mini, untrained", partial(network, untrained=True)
    yield "mini", partial(network, weights=weights)
    for backbone, file in LARGER.items():
        if (WEIGHTS / file).is_file():
            size = SIZE_OF_LARGER.get(name, 224)
            label = f"{backbone}, {size} px"
            path = WEIGHTS / file
            yield (
                label,
                partial(network, backbone=backbone, weights=path, image_size=size),
            )


def compare_ways(names, weights, wanted):
    rows = []
    for name in names:
        for way, evaluate in ways(name, weights):
            if not any(word in way for word in wanted):
                continue
            rows.append((name, way, *evaluate(load(name))))
            print(*rows[-1], sep="  ", flush=True)
    print()
    print_table(["set", "way", "few labels", "all labels", "folds"], rows)


def compare_settings(names, settings):
    """One row a setting, the three cells of every set in the columns."""
    header = ["setting", *(f"{name}, {part}" for name in names for part in PARTS)]
    rows = []
    for label, parameters in settings.items():
        cells = [c for name in names for c in network(load(name), **parameters)]
        rows.append([label, *cells])
        print(*rows[-1], sep="  ", flush=True)
    print()
    print_table(header, rows)


PARTS = ("few", "all", "folds")


class Layer(nn.Module):
    """`mini` up to one of its layers."""

    def __init__(self, weights, layer):
        super().__init__()
        trunk = mobilenet_v3_small(weights=None).eval()
        state = {k: v.float() for k, v in load_file(weights).items()}
        trunk.load_state_dict(state, strict=False)
        self.extractor = create_feature_extractor(trunk, {layer: "map"})

    def forward(self, batch):
        return self.extractor(batch)["map"].mean((2, 3))


def settings_of(question, weights):
    if question == "C":
        return {
            f"C={C:g}": {"strategy": FeatureExtraction(C=C), "weights": weights}
            for C in (0.001, 0.003, 0.01, 0.03, 0.1)
        }
    if question == "size":
        return {"chosen by fit, squash": {"weights": weights}} | {
            f"{size} px, {resize}": {
                "image_size": size,
                "resize": resize,
                "weights": weights,
            }
            for size in (96, 112, 128, 160)
            for resize in ("squash", "crop")
        }
    path = PATH if weights == "default" else weights
    return {
        layer: {
            "backbone": partial(Layer, path, layer),
            "image_size": 96,
            "resize": "squash",
        }
        for layer in ("features.3", "features.6", "features.8", "features.11")
    } | {"pooled": {"weights": weights, "image_size": 96}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--question", choices=["ways", "C", "size", "layer"], default="ways"
    )
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument(
        "--ways", nargs="+", default=[""], help="words of the ways to compare"
    )
    parser.add_argument("--weights", default="default", help="weights of mini to judge")
    options = parser.parse_args()
    if options.question == "ways":
        compare_ways(options.sets, options.weights, options.ways)
    else:
        settings = settings_of(options.question, options.weights)
        compare_settings(options.sets, settings)
