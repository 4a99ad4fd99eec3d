"""Named entities of short texts, by a tagger that can be exchanged."""

import re
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

import polars as pl
from pydantic import Field

from data.config import Config
from data.errors import InputError

WORD = re.compile(r"\w+", re.UNICODE)
LONGEST = 4  # words of an entry


class Tagger(Protocol):
    """Texts -> the entities of each, as (text, label)."""

    def __call__(self, texts: Sequence[str]) -> list[list[tuple[str, str]]]: ...


class TaggerConfig(Config):
    """Where the tagger comes from."""

    columns: tuple[str, ...] = Field(("category",), description="catalogue columns whose values are entities")
    title_words: int | None = Field(
        5, ge=1, description="a word of that many titles or more is an entity as well; None: no title words"
    )
    stop_words: tuple[str, ...] = Field(
        ("the", "a", "an", "and", "or", "of", "in", "on", "for", "with", "to", "at", "by", "from"),
        description="words that are no entities by themselves",
    )
    python: str | None = Field(None, description="MODULE:NAME of a Tagger of your own, in place of the lexicon")


class LexiconTagger:
    """Longest matches of a catalogue's own words, from left to right; a word belongs to one entity."""

    def __init__(self, entries: dict[str, str]) -> None:
        """entries: {entity: label}, words in lower case with single spaces."""
        self.entries = entries

    @classmethod
    def of_catalogue(cls, items: pl.DataFrame, title: str, config: TaggerConfig) -> "LexiconTagger":
        """From catalogue columns (lists give each of their values), and from words that many titles share.

        Raises InputError for a column that is not there.
        """
        entries: dict[str, str] = {}
        stop = set(config.stop_words)
        if config.title_words is not None and title in items.columns:
            titles = items[title].drop_nulls().unique()
            seen = Counter(word for text in titles for word in set(_words(str(text))))
            entries |= {w: title for w, n in seen.items() if n >= config.title_words and not w.isdigit()}
        for column in config.columns:
            if column not in items.columns:
                raise InputError(f"tagger.columns: the catalogue has no column {column!r}")
            values = items[column].explode() if isinstance(items[column].dtype, pl.List) else items[column]
            for value in values.drop_nulls().unique().sort():
                words = _words(str(value))
                if 0 < len(words) <= LONGEST:
                    entries[" ".join(words)] = column
        return cls({entity: label for entity, label in entries.items() if entity not in stop})

    def __call__(self, texts: Sequence[str]) -> list[list[tuple[str, str]]]:
        """The entities of each text."""
        return [self._entities(_words(text)) for text in texts]

    def _entities(self, words: list[str]) -> list[tuple[str, str]]:
        found, at = [], 0
        while at < len(words):
            for length in range(min(LONGEST, len(words) - at), 0, -1):
                entity = " ".join(words[at : at + length])
                label = self._label(entity)
                if label is not None:
                    found.append((entity, label))
                    at += length
                    break
            else:
                at += 1
        return found

    def _label(self, entity: str) -> str | None:
        """The label of an entry, also in the plural or singular that differs by s or es."""
        for form in (entity, f"{entity}s", f"{entity}es", entity.removesuffix("s"), entity.removesuffix("es")):
            if form in self.entries:
                return self.entries[form]
        return None


def load_tagger(config: TaggerConfig, items: pl.DataFrame, title: str) -> Tagger:
    """The tagger that the config names.

    Raises InputError for a module or name that is not there.
    """
    if config.python is None:
        return LexiconTagger.of_catalogue(items, title, config)
    module, _, name = config.python.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"tagger.python {config.python!r}: {error}; write MODULE:NAME") from None


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())
