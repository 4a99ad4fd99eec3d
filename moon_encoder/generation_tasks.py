"""Stage 1's tasks: questions about a product's picture whose answers stand in the catalogue (MOON, arXiv 2511.11305).

A task is a question and an answer over catalogue columns, e.g. "What colour is it?" and "{base_colour}". It applies to
the items that have all the columns it names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter

import numpy as np
import polars as pl
from pydantic import Field

from data.config import Config
from data.errors import InputError


class Task(Config):
    """One kind of question."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    prompts: tuple[str, ...] = Field(min_length=1, description="wordings, {column} is filled in; judged by the first")
    answer: str = Field(min_length=1, description="what is to be generated, {column} is filled in")
    exact: bool = Field(
        False, description="an attribute: judged by accuracy too (the generated answer is the very one)"
    )


@dataclass(frozen=True)
class Tasks:
    """Tasks over a catalogue.

    Attributes:
        answers: (items, tasks) texts, "" where the task does not apply.
    """

    tasks: tuple[Task, ...]
    answers: np.ndarray
    _prompts: list[np.ndarray]

    @classmethod
    def of(cls, tasks: tuple[Task, ...], items: pl.DataFrame) -> "Tasks":
        """Fill the columns in.

        Raises InputError for a column that is not there or a template that cannot be read.
        """
        names = {n for task in tasks for text in (task.answer, *task.prompts) for n in _columns(text, task, items)}
        columns = {name: _texts(items[name]) for name in names}
        prompts = [np.stack([_filled(p, columns, len(items)) for p in task.prompts], axis=1) for task in tasks]
        answers = np.stack([_filled(task.answer, columns, len(items)) for task in tasks], axis=1)
        for number, filled in enumerate(prompts):
            answers[(filled == "").any(1), number] = ""
        return cls(tasks, answers, prompts)

    def question(self, item: int, task: int, wording: int = 0) -> tuple[str, str]:
        """(question, answer) of an item in a task that applies to it."""
        return self._prompts[task][item, wording], self.answers[item, task]

    def asked(self, item: int, most: int | None, rng: np.random.Generator) -> list[tuple[str, str]]:
        """At most `most` questions of an item, tasks and wordings drawn by `rng`."""
        found = rng.permutation(np.flatnonzero(self.answers[item] != ""))[:most]
        return [self.question(item, int(t), int(rng.integers(len(self.tasks[t].prompts)))) for t in found]

    def texts(self, rows: np.ndarray) -> Iterator[str]:
        """Every question and answer of some items, by index."""
        for values in (*self._prompts, self.answers):
            yield from (text for text in values[rows].ravel() if text)

    def majority(self, rows: np.ndarray) -> list[str]:
        """The most frequent answer of each task over some items."""
        found = []
        for answers in self.answers[rows].T:
            values, counts = np.unique(answers[answers != ""].astype(str), return_counts=True)
            found.append(str(values[counts.argmax()]) if len(values) else "")
        return found


def _columns(text: str, task: Task, items: pl.DataFrame) -> list[str]:
    try:
        names = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise InputError(f"task {task.name}: {text!r} is no template: {error}") from None
    for name in names:
        if name not in items.columns:
            raise InputError(
                f"task {task.name}: the catalogue has no column {name!r}; it has {', '.join(items.columns)}"
            )
    return names


def _texts(column: pl.Series) -> np.ndarray:
    """(items,) texts, lists joined by commas, "" for null."""
    if isinstance(column.dtype, pl.List):
        column = column.list.eval(pl.element().cast(pl.String)).list.join(", ")
    return np.array([(text or "").strip() for text in column.cast(pl.String)], dtype=object)


def _filled(template: str, columns: dict[str, np.ndarray], items: int) -> np.ndarray:
    """(items,) texts, "" where a column is empty."""
    names = sorted({name for _, name, _, _ in Formatter().parse(template) if name is not None})
    if not names:
        return np.array([template.format()] * items, dtype=object)
    rows = zip(*(columns[name] for name in names), strict=True)
    return np.array(
        [template.format(**dict(zip(names, row, strict=True))) if all(row) else "" for row in rows], dtype=object
    )
