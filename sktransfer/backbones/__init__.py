"""Pretrained networks by name, with the preprocessing that belongs to their weights."""

from sktransfer.backbones import _mini, _torchvision
from sktransfer.backbones._registry import (
    add_source,
    get_backbone,
    list_backbones,
    register_backbone,
)

add_source(_mini.specs)
add_source(_torchvision.specs)

__all__ = ["get_backbone", "list_backbones", "register_backbone"]
