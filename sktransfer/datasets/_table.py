"""A CSV file with image columns -> a DataFrame with absolute paths."""

import os
from pathlib import Path


def load_image_table(csv, image_columns, root=None):
    r"""Read a table in which one or more columns name image files.

    No image is opened. Missing cells stay missing.

    Parameters
    ----------
    csv : str or Path
        A CSV file with a header.
    image_columns : str or list of str
        Names of the columns that hold paths of images.
    root : str or Path, default=None
        Folder that relative paths start from. None is the folder of the CSV file.

    Returns
    -------
    DataFrame
        The table, with absolute paths (str) in the image columns.

    Raises
    ------
    FileNotFoundError
        If the CSV file does not exist.
    ValueError
        If the table lacks an image column, or a cell of one is not a path.

    See Also
    --------
    load_image_folder : For images in one folder per class.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sktransfer.datasets import load_image_table
    >>> with TemporaryDirectory() as folder:
    ...     csv = Path(folder, "houses.csv")
    ...     _ = csv.write_text("photo,price\nfront/1.jpg,200\n,150\n")
    ...     houses = load_image_table(csv, "photo", root="/data")
    >>> houses["photo"].tolist()
    ['/data/front/1.jpg', nan]
    """
    import pandas as pd

    csv = Path(os.path.abspath(csv))
    table = pd.read_csv(csv)
    columns = [image_columns] if isinstance(image_columns, str) else list(image_columns)
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise ValueError(
            f"{csv} has no column {absent}. Its columns are {list(table.columns)}."
        )
    root = csv.parent if root is None else Path(os.path.abspath(root))
    for name in columns:
        table[name] = [
            _absolute(cell, root, name, row) for row, cell in enumerate(table[name])
        ]
    return table


def _absolute(cell, root, column, row):
    if isinstance(cell, str):
        # Not normpath: behind a link, `..` is another folder. A URL is told later.
        return cell if "://" in cell else str(root / cell)
    if cell != cell:
        return cell
    raise ValueError(
        f"Row {row} of column {column!r}: found {cell!r}. "
        "Expected the path of an image."
    )
