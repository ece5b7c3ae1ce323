"""
The classic recipe, and a better one
====================================

A recipe that is found in countless tutorials, written down first for CIFAR-10 with
Keras: a frozen ResNet-50, global average pooling, one hidden layer of 64 units, Adam
with a learning rate of 1e-5, batches of 32, images from one folder a class.

Here it is in this package, beside the default, which keeps the same frozen network and
solves a linear head exactly instead of training two layers slowly.

Set ``CIFAR10_FOLDERS`` to a folder that holds one folder a class to run it on CIFAR-10.
Without that, scikit-learn's handwritten digits are written to such folders. The network
is ResNet-50 if its weights are here or can be downloaded, else the one that ships with
the package.
"""

# %%
# One folder a class
# ------------------

import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sktransfer.datasets import load_image_folder


def write_digits(folder, n=500):
    """Write some of scikit-learn's digits as image files, one folder a class."""
    images, labels = load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(images[:n], labels[:n], strict=True)):
        path = Path(folder, str(label), f"{i}.png")
        path.parent.mkdir(exist_ok=True)
        grey = (image.reshape(8, 8) * 255 / 16).astype(np.uint8)
        Image.fromarray(grey).save(path)
    return folder


temporary = tempfile.TemporaryDirectory()  # is removed at the end
folder = os.environ.get("CIFAR10_FOLDERS") or write_digits(temporary.name)
photos = load_image_folder(folder)
X_train, X_test, y_train, y_test = train_test_split(
    photos.data, photos.target, stratify=photos.target, random_state=0
)
print(f"{len(X_train)} images to learn from, classes {sorted(set(map(str, y_train)))}")

# %%
# ResNet-50 where it can be had
# -----------------------------

from sktransfer import FeatureExtractorTransformer
from sktransfer.exceptions import WeightsDownloadError

try:
    backbone = "resnet50"
    FeatureExtractorTransformer(backbone).fit(X_train[:1])
except WeightsDownloadError:
    backbone = "mini"
print("backbone:", backbone)

# %%
# The classic recipe
# ------------------
#
# The images pass the frozen network once; the epochs run over its features.

from sktransfer import FeatureExtraction, MLPHead, TransferClassifier

classic = TransferClassifier(
    backbone,
    strategy=FeatureExtraction(solver="gradient"),
    head=MLPHead(hidden=(64,), dropout=0.0),
    optimizer="adam",
    lr=1e-5,
    lr_schedule="constant",
    gradient_clip=None,
    batch_size=32,
    max_epochs=50,
    random_state=0,
)
classic.fit(X_train, y_train)
print(f"classic recipe: {classic.score(X_test, y_test):.3f}")

# %%
# The better way
# --------------

better = TransferClassifier(backbone).fit(X_train, y_train)
print(f"default: {better.score(X_test, y_test):.3f}")

# %%
# What the classic recipe was doing
# ---------------------------------
#
# With a learning rate of 1e-5 the loss is still falling when the epochs are over.

import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(5, 3))
axes.plot(classic.history_["epoch"], classic.history_["train_loss"])
axes.set(xlabel="epoch", ylabel="training loss", title="Dense 64, Adam, 1e-5")
figure.tight_layout()
plt.show()
