"""Features of images from paths, by other packages; runs in an environment of theirs.

Reads the paths, as one line of JSON, and writes the names of the packages that are
installed; then runs one of them for each line that names it, and writes a line when it
is done. Weights are random, which changes no speed and needs no network.
"""

import json
import sys

import torch
from PIL import Image

BATCH_SIZE = 32


def embetter():
    """A pipeline of embetter's, with the resnet18 of timm."""
    import timm

    timm.create_model = without_download(timm.create_model, "pretrained", False)
    from embetter.vision import ImageLoader, TimmEncoder
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(ImageLoader(convert="RGB"), TimmEncoder("resnet18"))
    return pipeline.fit_transform


def img2vec():
    """Img2Vec with the resnet18 of torchvision, in batches."""
    from img2vec_pytorch import Img2Vec, img_to_vec

    img_to_vec.resnet18 = without_download(img_to_vec.resnet18, "weights", None)
    model = Img2Vec(model="resnet18")

    def run(paths):
        for start in range(0, len(paths), BATCH_SIZE):
            some = paths[start : start + BATCH_SIZE]
            model.get_vec([Image.open(path).convert("RGB") for path in some])

    return run


def without_download(build, name, value):
    """Wrap what builds a network, so that it does not ask for weights."""
    return lambda *args, **kwargs: build(*args, **{**kwargs, name: value})


def serve(paths):
    answers, sys.stdout = sys.stdout, sys.stderr  # the packages print, too
    made = {}
    for make in (embetter, img2vec):
        try:
            made[make.__name__] = make()
        except ImportError as error:
            print(f"{make.__name__} cannot be imported: {error}", file=sys.stderr)
    print(json.dumps(sorted(made)), file=answers, flush=True)
    with torch.no_grad():  # embetter leaves gradients on
        for line in sys.stdin:
            made[line.strip()](paths)
            print("done", file=answers, flush=True)


if __name__ == "__main__":
    serve(json.loads(sys.stdin.readline()))
