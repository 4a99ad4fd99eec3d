"""The sources that `moon prepare` knows, one file each."""

from importlib import import_module
from pathlib import Path

from data.errors import InputError
from data.source import Source

_SOURCES = {
    "movielens_posters": ("data.sources.movielens_posters", "MovielensPosters", ()),
    "fashion_products": ("data.sources.fashion_products", "FashionProducts", ()),
    "open_bandit": ("data.sources.open_bandit", "OpenBandit", ("policy",)),
    "alimama_ad_click": ("data.sources.alimama", "AlimamaAdClick", ()),
    "taobao_mm": ("data.sources.taobao_mm", "TaobaoMM", ()),
    "tabular": ("data.sources.tabular", "Tabular", ("columns",)),
}


def source_names() -> list[str]:
    """Names that `open_source` takes."""
    return list(_SOURCES)


def open_source(name: str, root: Path, **options: object) -> Source:
    """The source `name` over the raw data in `root`; options that are None are not given.

    Raises InputError for an unknown name, an absent root or an option the source does not take.
    """
    if name not in _SOURCES:
        raise InputError(f"source {name!r} is unknown; sources: {', '.join(_SOURCES)}")
    if not root.is_dir():
        raise InputError(f"--root {root}: no such folder")
    module, cls, takes = _SOURCES[name]
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in takes:
            raise InputError(f"--{key}: the source {name} takes no such option")
    return getattr(import_module(module), cls)(root, **given)
