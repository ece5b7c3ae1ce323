"""From files to X and y: image folders and tables with image columns."""

from sktransfer.datasets._folder import load_image_folder
from sktransfer.datasets._table import load_image_table

__all__ = ["load_image_folder", "load_image_table"]
