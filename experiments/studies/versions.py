"""Encoder versions: vectors of a dataset's items and of its searches, by a recipe that says how they are made.

A version is a checkpoint, an encoder that is not trained, one that is pretrained or post-trained here, a measurement of
the pixels, or another version with its vectors shuffled. What was made is kept: OUT/versions/NAME/{vectors.npz, store/,
pretrain-sS/, stage-N-sS/}.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator

from data.config import Config, load_config
from data.dataset import Dataset
from data.errors import InputError
from features.ranks import Ranks
from features.store import Store
from features.store_writer import StoreWriter
from moon_encoder.encoder import Encoder
from moon_encoder.forms import Catalogue, Contents, Form
from moon_encoder.held_out import TRAIN, HeldOut
from moon_encoder.initial import start_from
from moon_encoder.items import readable
from moon_encoder.pairs import CoOccurrence, Pairs, Split, load_pairs
from moon_encoder.posttrain import posttrain
from moon_encoder.posttrain_config import Posttrain
from moon_encoder.pretrain import pretrain
from moon_encoder.pretrain_config import Pretrain
from moon_encoder.shown import PLAIN, Shown, Views
from moon_encoder.valid_search import embed
from moon_encoder.whiten import whitening

SEARCHES = ("image", "text")


class Stage(Config):
    """One post-training."""

    config: Path = Field(description="its YAML; a relative path starts at the study's folder")
    set: tuple[str, ...] = Field((), description="changed fields, A.B=C")


class VersionConfig(Config):
    """How a version is made; exactly one of grid, init, pretrain and shuffle."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str = Field("", description="what it is, in a few words; empty: its name")
    grid: int | None = Field(None, ge=1, le=16, description="mean colours of the picture on so many cells a side")
    init: Path | None = Field(None, description="an encoder's folder, or a YAML of one to build")
    init_set: tuple[str, ...] = Field((), description="changed fields of that YAML, or of pretrain, A.B=C")
    pretrain: Path | None = Field(None, description="a YAML of stage 1: a multimodal LLM, pretrained here")
    shuffle: str | None = Field(None, description="another version, whose vectors change places among the items")
    stages: tuple[Stage, ...] = Field((), description="post-trainings of it, one after the other")
    content: Form | None = Field(
        None, description="what is shown of an item; None: title and picture, where it reads both"
    )
    dim: int | None = Field(None, ge=1, description="the first numbers of the vector; None: all")
    whiten: int | None = Field(None, ge=1, description="principal parts of the items' vectors, each with variance 1")

    @model_validator(mode="after")
    def _one_way(self) -> "VersionConfig":
        given = [name for name in ("grid", "init", "pretrain", "shuffle") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"version {self.name!r}: give exactly one of grid, init, pretrain and shuffle (got {given or 'none'})"
            )
        if self.stages and self.init is None and self.pretrain is None:
            raise ValueError(f"version {self.name!r}: stages belong to init or pretrain")
        return self

    @property
    def words(self) -> str:
        """What it is."""
        return self.title or self.name


def check_versions(versions: tuple[VersionConfig, ...]) -> None:
    """Raise ValueError for two of one name, or a shuffle of a version that does not stand before it."""
    seen: list[str] = []
    for version in versions:
        if version.name in seen:
            raise ValueError(f"two versions are called {version.name!r}")
        if version.shuffle is not None and version.shuffle not in seen:
            raise ValueError(f"version {version.name!r}: shuffle {version.shuffle!r} names no version before it")
        seen.append(version.name)


@dataclass(frozen=True)
class Vectors:
    """A version's vectors, each of length 1.

    Attributes:
        items: (items, M) float32. present: (items,) bool.
        queries: by what is searched with (image, text), (Q, M) of the searches; absent where it cannot read them.
    """

    items: np.ndarray
    present: np.ndarray
    queries: dict[str, np.ndarray]


@dataclass(frozen=True)
class Searches:
    """The searches of a split: each distinct picture or text once, with its items.

    Attributes:
        pairs: one row a distinct query. number, item: (n,) which query found which item.
    """

    pairs: Pairs
    number: np.ndarray
    item: np.ndarray

    @classmethod
    def of(cls, asked_by: str, contents: Contents, split: Split, limit: int) -> "Searches":
        """At most `limit` searches of a split, drawn by seed 0; without a log of them, pairs that the source names."""
        rule = CoOccurrence()  # pyright: ignore[reportCallIssue]
        found = load_pairs("search_image" if asked_by == "image" else "search_text", contents, split, rule)
        if not len(found):
            given = load_pairs("given", contents, split, rule)
            found = given if given.asked_by == asked_by else given[:0]
        _, first, number = np.unique(found.query.astype(str), return_index=True, return_inverse=True)
        kept = np.sort(np.random.default_rng(0).permutation(len(first))[:limit])
        place = np.full(len(first), -1)
        place[kept] = np.arange(len(kept))
        mine = place[number] >= 0
        return cls(found[first[kept]], place[number[mine]], found.item[mine])

    def __len__(self) -> int:
        return len(self.pairs)


class Maker:
    """Makes versions of one dataset."""

    def __init__(
        self,
        dataset: Dataset,
        folder: Path,
        base: Path,
        ranks: Ranks,
        split: Split,
        limit: int,
        cache: Path | None = None,
        rich: tuple[str, ...] = ("category",),
    ) -> None:
        """folder: of the versions. base: where relative paths start. split, limit: of the searches. cache: folder for
        what frozen parts make of items (default: in `folder`). rich: columns behind the title, those that there are."""
        self.dataset, self.folder, self.base, self.ranks = dataset, folder, base, ranks
        columns = dataset.items().collect_schema().names()
        rich = tuple(column for column in rich if column in columns)
        self.contents = Contents.of(dataset, Catalogue(rich=rich))  # pyright: ignore[reportCallIssue]
        found = {asked: Searches.of(asked, self.contents, split, limit) for asked in SEARCHES}
        self.searches = {asked: one for asked, one in found.items() if len(one)}
        self.cache = cache or folder / "cache"

    def make(self, version: VersionConfig, seed: int = 0) -> Vectors:
        """The version's vectors, made now or read; its store is `store(version)`.

        Raises InputError for an encoder that is not there or cannot read the content.
        """
        path, key = self.folder / version.name / "vectors.npz", self._key(version, seed)
        if path.is_file():
            with np.load(path) as saved:
                if str(saved["key"]) == key:
                    queries = {asked: saved[asked] for asked in SEARCHES if asked in saved}
                    return Vectors(saved["items"], saved["present"], queries)
        made = self._made(version, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}")
        with part.open("wb") as file:
            np.savez(file, items=made.items, present=made.present, key=np.array(key), **made.queries)  # pyright: ignore[reportArgumentType]
        self._publish(version, made)
        part.rename(path)
        return made

    def store(self, version: VersionConfig) -> Path:
        """Where its representation store is."""
        return self.folder / version.name / "store"

    def _publish(self, version: VersionConfig, made: Vectors) -> None:
        there = np.flatnonzero(made.present)
        root, items = self.store(version), len(made.items)
        fingerprint = self.dataset.fingerprint
        ids = self.dataset.items().select("item_id").collect()["item_id"]
        with StoreWriter(
            root, items, made.items.shape[1], encoder=version.name, dataset_fingerprint=fingerprint, item_ids=ids
        ) as writer:
            writer.put(there, made.items[there])
            writer.publish()
        Store(root)

    def _key(self, version: VersionConfig, seed: int) -> str:
        """What a version's vectors depend on."""
        facts = [version.model_dump(mode="json"), self.dataset.fingerprint, seed]
        facts += [[asked, len(one), one.pairs.query.tolist()] for asked, one in self.searches.items()]
        if version.pretrain is not None:
            facts.append((self.base / version.pretrain).read_text())
        for stage in version.stages:
            facts.append((self.base / stage.config).read_text())
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _made(self, version: VersionConfig, seed: int) -> Vectors:
        if version.grid is not None:
            made = self._colours(version.grid)
        elif version.shuffle is not None:
            made = self._shuffled(version.shuffle)
        else:
            made = self._encoded(version, seed)
        return _finished(made, version.dim, version.whiten)

    def _colours(self, cells: int) -> Vectors:
        """Mean colours of pictures on a grid, less their mean over the items."""
        there = np.flatnonzero(self.contents.has("image"))
        items = np.zeros((len(self.contents), 3 * cells * cells), np.float32)
        items[there] = [_grid(self.contents.item_image(int(i)), cells) for i in there]
        centre = items[there].mean(0)
        items[there] -= centre
        queries = {}
        if "image" in self.searches:
            keys = self.searches["image"].pairs.query
            queries["image"] = np.stack([_grid(self.contents.query_image(str(k)), cells) for k in keys]) - centre
        return Vectors(items, self.contents.has("image"), queries)

    def _shuffled(self, other: str) -> Vectors:
        with np.load(self.folder / other / "vectors.npz") as saved:
            items, present = saved["items"], saved["present"]
            queries = {asked: saved[asked] for asked in SEARCHES if asked in saved}
        there = np.flatnonzero(present)
        items[there] = items[np.random.default_rng(0).permutation(there)]
        return Vectors(items, present, queries)

    def _encoded(self, version: VersionConfig, seed: int) -> Vectors:
        encoder = self._encoder(version, seed)
        form = readable(version.content, encoder)
        has = self.contents.has(form)
        shown = Shown(self.contents, encoder.eval(), Views(), 0, self.cache)  # pyright: ignore[reportCallIssue]
        there = np.flatnonzero(has)
        items = np.zeros((len(self.contents), encoder.dim), np.float32)
        items[there] = embed(encoder, len(there), lambda r: shown.items(there[r], form)).numpy()
        queries = {}
        for asked, searches in self.searches.items():
            if asked in encoder.reads:
                pairs, query = searches.pairs, asked
                found = embed(encoder, len(pairs), lambda r, p=pairs, q=query: shown.queries(p[r], q, PLAIN))  # pyright: ignore[reportArgumentType]
                queries[asked] = found.numpy()
        return Vectors(items, has, queries)

    def _encoder(self, version: VersionConfig, seed: int) -> Encoder:
        configs = [load_config(self.base / s.config, Posttrain, [*s.set, f"seed={seed}"]) for s in version.stages]
        rule = configs[0].held_out if configs else HeldOut()  # pyright: ignore[reportCallIssue]

        def texts() -> list[str]:
            return self.contents.texts_of(np.flatnonzero(rule.parts(self.dataset.items().collect()) == TRAIN))

        encoder, start = start_from(self._start(version, seed), seed, texts, version.init_set)
        for number, config in enumerate(configs):
            out = self.folder / version.name / f"stage-{number}-s{seed}"
            posttrain(config, self.dataset, encoder, start, out, self.ranks, True, self.cache)
            encoder, start = start_from(out / "encoder", seed, texts)
        return encoder

    def pretrained(self, version: VersionConfig, seed: int) -> Path:
        """The run of stage 1 of a version that has one."""
        return self.folder / version.name / f"pretrain-s{seed}"

    def _start(self, version: VersionConfig, seed: int) -> Path:
        """The encoder's folder or YAML that a version starts from; one that is to be pretrained is made now."""
        if version.pretrain is None:
            assert version.init is not None
            return self.base / version.init if (self.base / version.init).exists() else version.init
        out = self.pretrained(version, seed)
        if not (out / "encoder" / "encoder.json").is_file():
            config = load_config(self.base / version.pretrain, Pretrain, [*version.init_set, f"seed={seed}"])
            pretrain(config, self.dataset, out, self.ranks, True, self.cache)
        return out / "encoder"


def _finished(made: Vectors, dim: int | None, whiten: int | None) -> Vectors:
    """Cut, whitened, scaled to length 1, and as wide as a table takes."""
    if dim is not None and dim > made.items.shape[1]:
        raise InputError(f"dim {dim}: the vectors have {made.items.shape[1]} numbers")
    items, queries = made.items[:, :dim], {asked: q[:, :dim] for asked, q in made.queries.items()}
    if whiten is not None:
        weight, bias = (t.numpy() for t in whitening(torch.from_numpy(items[made.present]), whiten))
        items, queries = items @ weight.T + bias, {asked: q @ weight.T + bias for asked, q in queries.items()}
    return Vectors(_unit(items), made.present, {asked: _unit(q) for asked, q in queries.items()})


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Length 1, and as wide as a table takes: zeros up to a multiple of 4, which change no cosine."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.pad(unit, ((0, 0), (0, -vectors.shape[1] % 4))).astype(np.float32)


def _grid(image: Image.Image, cells: int) -> np.ndarray:
    """(3 cells^2,) mean colours in 0..1."""
    small = image.convert("RGB").resize((cells, cells), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel() / 255
