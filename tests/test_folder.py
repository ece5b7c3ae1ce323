"""load_image_folder: which files, which labels, and what is said if there are none."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sktransfer import FeatureExtractorTransformer
from sktransfer.datasets import load_image_folder


@pytest.fixture
def make_folder(tmp_path):
    """Make a folder of empty files, since no image is opened."""

    def make(*names):
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
        return tmp_path

    return make


def relative(photos, folder):
    return [os.path.relpath(path, folder) for path in photos.data["image"]]


def test_ants_and_bees_are_244_images_of_two_classes(shared_data):
    photos = load_image_folder(shared_data / "ants_bees" / "train")
    assert photos.data.shape == (244, 1)
    assert list(photos.data.columns) == ["image"]
    assert photos.target_names == ["ants", "bees"]
    names, counts = np.unique(photos.target, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "ants": 123,
        "bees": 121,
    }
    for path, label in zip(photos.data["image"], photos.target, strict=True):
        assert os.path.isabs(path)
        assert os.path.isfile(path)
        assert Path(path).parent.name == label


def test_labels_and_files_are_sorted_whatever_the_order_on_disk(make_folder):
    folder = make_folder("dog/b.jpg", "cat/c.png", "dog/a.jpg", "ape/z.gif")
    photos = load_image_folder(folder)
    assert relative(photos, folder) == [
        "ape/z.gif",
        "cat/c.png",
        "dog/a.jpg",
        "dog/b.jpg",
    ]
    assert photos.target.tolist() == ["ape", "cat", "dog", "dog"]
    assert photos.target_names == ["ape", "cat", "dog"]


def test_folders_inside_a_class_folder_are_searched(make_folder):
    folder = make_folder("cat/2020/may/1.jpg", "cat/2.jpg", "dog/old/3.jpg")
    photos = load_image_folder(folder)
    assert relative(photos, folder) == [
        "cat/2.jpg",
        "cat/2020/may/1.jpg",
        "dog/old/3.jpg",
    ]
    assert photos.target.tolist() == ["cat", "cat", "dog"]


def test_extensions_count_in_any_case_and_other_files_are_skipped(make_folder):
    folder = make_folder(
        *("cat/1.JPG", "cat/2.Png", "cat/3.webp", "cat/4.TIFF", "cat/5.jpeg"),
        *("cat/Thumbs.db", "cat/notes.txt", "cat/jpg", "cat/clip.MPG", "cat/x.eps"),
        "readme.jpg",
    )
    photos = load_image_folder(folder)
    assert relative(photos, folder) == [
        f"cat/{name}" for name in ("1.JPG", "2.Png", "3.webp", "4.TIFF", "5.jpeg")
    ]


def test_hidden_files_and_folders_are_skipped(make_folder):
    folder = make_folder(
        "cat/1.jpg", "cat/._1.jpg", "cat/.cache/2.jpg", ".ipynb_checkpoints/3.jpg"
    )
    photos = load_image_folder(folder)
    assert relative(photos, folder) == ["cat/1.jpg"]
    assert photos.target_names == ["cat"]


def test_links_to_folders_are_followed_but_not_in_circles(make_folder):
    folder = make_folder("photos/cat/1.jpg", "photos/dog/2.jpg", "elsewhere/3.jpg")
    try:
        os.symlink(folder / "photos" / "cat", folder / "photos" / "cat" / "again")
        os.symlink(folder / "elsewhere", folder / "photos" / "cat" / "more")
        os.symlink(folder / "elsewhere", folder / "photos" / "owl")
    except OSError:
        pytest.skip("no symbolic links here")
    photos = load_image_folder(folder / "photos")
    assert relative(photos, folder / "photos") == [
        *("cat/1.jpg", "cat/more/3.jpg", "dog/2.jpg", "owl/3.jpg")
    ]


def test_empty_classes_are_named(make_folder):
    folder = make_folder("cat/1.jpg", "dog/notes.txt", "owl/.hidden.jpg")
    (folder / "ape").mkdir()
    with pytest.raises(
        ValueError, match=r"No images in .*\['ape', 'dog', 'owl'\] of .*\.jpg, \.png"
    ):
        load_image_folder(folder)


def test_missing_folder_is_named_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        load_image_folder("photos")
    assert str(caught.value).startswith(f"{os.path.join(os.getcwd(), 'photos')} is not")


def test_file_instead_of_a_folder_is_an_error(make_folder):
    folder = make_folder("cat/1.jpg")
    with pytest.raises(FileNotFoundError, match=r"1\.jpg is not a folder"):
        load_image_folder(folder / "cat" / "1.jpg")


def test_folder_without_class_folders_points_to_the_table(make_folder):
    folder = make_folder("1.jpg", ".git/2.jpg")
    with pytest.raises(ValueError, match=r"no subfolders.*load_image_table"):
        load_image_folder(folder)


def test_relative_folder_gives_absolute_paths_that_can_be_read(tmp_path, monkeypatch):
    (tmp_path / "photos" / "é t").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "é t" / "1 2.png")
    monkeypatch.chdir(tmp_path)
    photos = load_image_folder("photos")
    monkeypatch.chdir(tmp_path / "photos")
    assert photos.target.tolist() == ["é t"]
    assert FeatureExtractorTransformer().fit_transform(photos.data).shape[0] == 1
