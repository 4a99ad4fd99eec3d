"""Recall of one or two subjects, task by task: the same queries, the same gallery, paired."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.progress import Progress
from moon_encoder.embed_parts import device
from moon_encoder.forms import Contents, Form
from moon_encoder.next_item import clicks, union_recall
from moon_encoder.recall import interval, names, report, values
from moon_encoder.recall_examples import Examples, examples_of
from moon_encoder.recall_subjects import Subject
from moon_encoder.recall_tasks import Asked, Task, make_task
from moon_encoder.search import Masked, Picked, Relevance, Vectors, rank


class _Rows:
    """A relevance for some of its queries."""

    def __init__(self, relevance: Relevance, queries: np.ndarray) -> None:
        self.relevance, self.queries = relevance, queries

    def mask(self, queries: np.ndarray, start: int, stop: int):
        return self.relevance.mask(self.queries[queries], start, stop)


def judge(
    tasks: Sequence[str], asked: Asked, subject: Subject, baseline: Subject | None, examples: bool
) -> tuple[dict[str, Any], dict[str, str], list[Examples]]:
    """Figures of each task, the tasks that are left out with the reason, and examples where asked for."""
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    shown: list[Examples] = []
    subjects = [subject] if baseline is None else [subject, baseline]
    for name in dict.fromkeys(tasks):
        if name == "next-item":
            outcome = _next_item(asked, subjects)
        else:
            task = make_task(name, asked)
            outcome = (
                task if isinstance(task, str) else _search(task, asked.contents, subjects, shown if examples else None)
            )
        if isinstance(outcome, str):
            left_out[name] = outcome
        else:
            found[name] = outcome
    return found, left_out, shown


def _unable(subjects: list[Subject], form: Form | None, asks: str | None) -> str | None:
    reasons = [f"{s.name}: {why}" for s in subjects if (why := s.lacks(form, asks))]
    return reasons[0] if reasons else None


def _search(
    task: Task, contents: Contents, subjects: list[Subject], shown: list[Examples] | None
) -> dict[str, Any] | str:
    if reason := _unable(subjects, task.gallery, task.asks):
        return reason
    galleries = [subject.items(task.gallery) for subject in subjects]
    present = np.logical_and.reduce([gallery.present for gallery in galleries])
    galleries = [Masked(gallery, present) for gallery in galleries]
    if task.load is None:
        queries: list[Vectors] = [Picked(gallery, task.item) for gallery in galleries]
    else:
        queries = [subject.queries(task.load, len(task))[0] for subject in subjects]
    asked = np.flatnonzero(np.logical_and.reduce([query.present for query in queries]))
    if not len(asked):
        return "no query has a vector"
    right, own = _Rows(task.right, asked), task.item[asked]
    own = own if (own >= 0).any() else None
    rankings = []
    for subject, query, gallery in zip(subjects, queries, galleries, strict=True):
        progress = Progress(f"{task.name}: {subject.name}", len(asked), "queries")
        rankings.append(rank(Picked(query, asked), gallery, right, own, device=device(), progress=progress.add))
        progress.close()
    size = int(present.sum())
    category = _categories(contents, task.example[asked])
    notes = [f"{len(task) - len(asked):,} further queries have no vector"] if len(asked) < len(task) else []
    unreachable = int((rankings[0].first == 0).sum())
    if unreachable:
        notes.append(f"{unreachable:,} queries have no right item with a vector and count as missed")
    found = _report([values(ranking) for ranking in rankings], size, category, None, names(), notes)
    found["without_vector"], found["unreachable"] = len(task) - len(asked), unreachable
    if shown is not None:
        shown.append(examples_of(task, contents, asked, rankings[0].first, queries[0], galleries[0], own))
    return found


def _next_item(asked: Asked, subjects: list[Subject]) -> dict[str, Any] | str:
    dataset: Dataset = asked.contents.dataset
    if not dataset.meta["counts"]["behaviors"] or not dataset.meta["counts"][asked.split]:
        return f"the dataset has no behaviours with clicks in {asked.split}"
    if reason := _unable(subjects, None, None):
        return reason
    clicked = clicks(dataset, asked.split, asked.allowed, asked.limit)
    if not len(clicked.item):
        return f"no click in {asked.split} has behaviours before it"
    galleries = [subject.items(None) for subject in subjects]
    present = np.logical_and.reduce([gallery.present for gallery in galleries])
    results = []
    for subject, gallery in zip(subjects, galleries, strict=True):
        progress = Progress(f"next-item: {subject.name}", len(clicked.item), "clicks")
        results.append(union_recall(clicked, Masked(gallery, present), device=device(), progress=progress.add))
        progress.close()
    size = int(present.sum())
    columns = [np.stack([r.hit, r.size / size], axis=1).astype(np.float64) for r in results]
    category = _categories(asked.contents, clicked.item)
    notes = [f"the union holds {results[0].size.mean():,.0f} items in the mean: union_share is what chance reaches"]
    return _report(columns, size, category, clicked.user, ["union_recall@10", "union_share"], notes)


def _report(
    columns: list[np.ndarray],
    gallery: int,
    category: np.ndarray,
    cluster: np.ndarray | None,
    figures: list[str],
    notes: list[str],
) -> dict[str, Any]:
    """Figures of the first subject, of the second, and their paired difference."""
    found = report(columns[0], gallery, category, cluster, figures)
    found |= {"figures": figures, "notes": notes}
    if len(columns) > 1:
        found["baseline"] = report(columns[1], gallery, category, cluster, figures)
        gain = columns[0] - columns[1]
        low, high = interval(gain, cluster)
        found["difference"] = {
            name: {"value": float(gain[:, i].mean()), "low": float(low[i]), "high": float(high[i])}
            for i, name in enumerate(figures)
        }
    return found


def _categories(contents: Contents, items: np.ndarray) -> np.ndarray:
    """(n,) names of the items' categories."""
    table = np.array([*contents.category_names, "(none)"], dtype=object)
    return table[contents.category[items]].astype(str)
