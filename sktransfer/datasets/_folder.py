"""A folder of class folders -> a DataFrame of paths and an array of labels."""

import os
from pathlib import Path

import numpy as np

from sktransfer._images.decode import readable_extensions


def load_image_folder(path):
    """List the images of a folder that has one subfolder per class.

    No image is opened. Subfolders of a class folder are searched too; file name endings
    count in any case; hidden files and folders are skipped, and so are files that do
    not end like an image.

    Parameters
    ----------
    path : str or Path
        The folder; the names of its subfolders are the labels.

    Returns
    -------
    sklearn.utils.Bunch
        With the entries

        data : DataFrame of shape (n_images, 1)
            The column ``"image"`` holds absolute paths (str), sorted within a class.
        target : ndarray of shape (n_images,)
            The label of each image (str).
        target_names : list of str
            The labels there are, sorted.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If there is no class folder, or a class folder holds no image.

    See Also
    --------
    load_image_table : For a table with an image column.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from sktransfer.datasets import load_image_folder
    >>> with TemporaryDirectory() as folder:
    ...     for name in ["cat/1.png", "cat/kittens/2.PNG", "dog/1.jpg"]:
    ...         file = Path(folder, name)
    ...         file.parent.mkdir(parents=True, exist_ok=True)
    ...         Image.new("RGB", (8, 8)).save(file)
    ...     photos = load_image_folder(folder)
    >>> photos.data.shape
    (3, 1)
    >>> photos.target.tolist()
    ['cat', 'cat', 'dog']
    """
    import pandas as pd
    from sklearn.utils import Bunch

    root = Path(os.path.abspath(path))
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is not a folder. Expected a folder with one subfolder per class."
        )
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not _is_hidden(p.name))
    if not classes:
        raise ValueError(
            f"{root} has no subfolders. Expected one subfolder of images per class; "
            "for images whose labels stand in a table use load_image_table."
        )
    files = {folder.name: _find_images(folder) for folder in classes}
    empty = [name for name, found in files.items() if not found]
    if empty:
        endings = ", ".join(sorted(readable_extensions() & {".jpg", ".png", ".webp"}))
        raise ValueError(
            f"No images in the class folder(s) {empty} of {root}. Expected files that "
            f"end in {endings} or another ending Pillow reads. Add images or remove "
            "the folder."
        )
    return Bunch(
        data=pd.DataFrame({"image": [f for found in files.values() for f in found]}),
        target=np.repeat(list(files), [len(found) for found in files.values()]),
        target_names=list(files),
    )


def _is_hidden(name):
    return name.startswith(".")


def _find_images(folder):
    found, visited = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link led back here
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        found += [
            os.path.join(parent, name)
            for name in files
            if not _is_hidden(name)
            and os.path.splitext(name)[1].lower() in readable_extensions()
        ]
    return sorted(found)
