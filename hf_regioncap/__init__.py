"""Turn images and boxes into region captions, as plain `datasets` map functions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hf_regioncap.columns import (
        add_answers,
        add_boxes,
        add_overlays,
        add_prompts,
        add_region_captions,
    )
    from hf_regioncap.errors import (
        EndpointError,
        OptionError,
        PublishError,
        RegionCaptionError,
        StoreError,
    )
    from hf_regioncap.estimates import estimate
    from hf_regioncap.exports import explode_regions
    from hf_regioncap.gallery import show, write_gallery
    from hf_regioncap.pipeline import caption_dataset, retry_failed
    from hf_regioncap.publishing import publish, write_dataset
    from hf_regioncap.recipe import make_recipe
    from hf_regioncap.review import apply_review

_HOMES = {
    "apply_review": "review",
    "caption_dataset": "pipeline",
    "estimate": "estimates",
    "explode_regions": "exports",
    "make_recipe": "recipe",
    "publish": "publishing",
    "retry_failed": "pipeline",
    "show": "gallery",
    "write_dataset": "publishing",
    "write_gallery": "gallery",
    "add_answers": "columns",
    "add_boxes": "columns",
    "add_overlays": "columns",
    "add_prompts": "columns",
    "add_region_captions": "columns",
    "EndpointError": "errors",
    "OptionError": "errors",
    "PublishError": "errors",
    "RegionCaptionError": "errors",
    "StoreError": "errors",
}

__all__ = [
    "EndpointError",
    "OptionError",
    "PublishError",
    "RegionCaptionError",
    "StoreError",
    "add_answers",
    "add_boxes",
    "add_overlays",
    "add_prompts",
    "add_region_captions",
    "apply_review",
    "caption_dataset",
    "estimate",
    "explode_regions",
    "make_recipe",
    "publish",
    "retry_failed",
    "show",
    "write_dataset",
    "write_gallery",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `datasets` and `openai` take over a second."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"hf_regioncap.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return [*__all__, "__version__"]
