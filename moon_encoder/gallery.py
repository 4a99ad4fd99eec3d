"""A page of queries with their nearest items: right and wrong ones marked, hardest first; one file, no network."""

import base64
import html
import io
from typing import Any

import numpy as np
from PIL import Image

from data.errors import InputError
from moon_encoder.forms import Contents
from moon_encoder.gallery_page import PAGE
from moon_encoder.recall_examples import Example, Examples
from moon_encoder.recall_tasks import Task

THUMBNAIL, QUALITY = (112, 150), 72


def page(found: dict[str, Any], shown: list[Examples]) -> str:
    """The page: `found`, the figures of `moon encoder recall`, and queries of each task to look at."""
    sections = "".join(_section(examples, found["tasks"][examples.task.name]) for examples in shown)
    links = "".join(f'<a href="#{e.task.name}">{e.task.name}</a>' for e in shown)
    facts = f"{found['dim']} dimensions · items shown as {found['content']} · queries of: {found['part']}"
    if found["baseline"]:
        facts += f" · baseline {found['baseline']}"
    parts = {"title": found["subject"], "facts": facts, "links": links, "sections": sections}
    text = PAGE
    for name, value in parts.items():
        text = text.replace(f"@{name}@", value if name in ("links", "sections") else html.escape(value))
    return text


def _section(examples: Examples, figures: dict[str, Any]) -> str:
    task = examples.task
    contents = examples.contents
    kinds = sorted({_category(contents, e.example) for e in (*examples.hardest, *examples.drawn)})
    options = "".join(f"<option>{html.escape(kind)}</option>" for kind in kinds)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in figures["notes"])
    rows = _figures(figures)
    groups = ""
    for name, told, group in (
        ("Hardest", "the right item has a vector and stands lowest", examples.hardest),
        ("Drawn by chance", "what is usual", examples.drawn),
    ):
        cards = "".join(_card(task, contents, e, figures["gallery"]) for e in group)
        groups += f'<h3>{name} <small>{told}, hardest first</small></h3><div class="cards">{cards}</div>'
    return (
        f'<section id="{task.name}"><h2>{task.name}</h2>'
        f"<p>{figures['queries']:,} queries, gallery of {figures['gallery']:,} items</p>{rows}{notes}"
        f'<p class="filter"><label>Category <select><option value="">all</option>{options}</select></label>'
        f'<label><input type="checkbox"> first neighbour wrong</label></p>{groups}</section>'
    )


def _figures(figures: dict[str, Any]) -> str:
    """The table of figures with intervals, and of the baseline where there is one."""
    head = "<th>figure</th><th>value</th><th>95 % interval</th>"
    paired = "difference" in figures
    head += "<th>baseline</th><th>difference</th><th>95 % interval</th>" if paired else ""
    rows = ""
    for name in figures["figures"]:
        if name.startswith("precision") and name != "precision@10":
            continue  # as in the command's own table; the JSON has them all
        rows += f"<tr><th scope=row>{name}</th>{_cells(figures[name])}"
        if paired:
            rows += f"<td>{figures['baseline'][name]['value']:.4f}</td>{_cells(figures['difference'][name], '+')}"
        rows += "</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cells(figure: dict[str, float], sign: str = "") -> str:
    return f"<td>{figure['value']:{sign}.4f}</td><td>{figure['low']:{sign}.4f} to {figure['high']:{sign}.4f}</td>"


def _card(task: Task, contents: Contents, example: Example, gallery: int) -> str:
    """One query: itself, its right item, its neighbours."""
    rank = f"right item at rank {example.first:,} of {gallery:,}" if example.first else "right item has no vector"
    wrong = "" if example.right[:1] == [True] else " data-wrong"
    query = _query(task, contents, example.query)
    target = _item(contents, example.example, "right", example.example_cosine, "target")
    near = "".join(
        _item(contents, item, f"{place}.", cosine, "yes" if right else "no")
        for place, (item, cosine, right) in enumerate(zip(example.near, example.cosines, example.right, strict=True), 1)
    )
    category = html.escape(_category(contents, example.example))
    return (
        f'<article tabindex="0" data-category="{category}"{wrong}><header>{rank}<span>{category}</span></header>'
        f'<div class="row"><div class="pair">{query}{target}</div><div class="near">{near}</div></div></article>'
    )


def _query(task: Task, contents: Contents, query: int) -> str:
    if task.load is None:
        return _item(contents, int(task.item[query]), "query", None, "query")
    content, _ = task.load(query)
    image = _picture(content.image, "the query") if content is not None and content.image is not None else ""
    text = html.escape(task.text[query])
    return (
        f'<figure class="query"><figcaption><b>query</b></figcaption>{image}<span class="title">{text}</span></figure>'
    )


def _item(contents: Contents, item: int, label: str, cosine: float | None, kind: str) -> str:
    word = {"yes": "right", "no": "wrong"}.get(kind, "")
    mark = word and f'<i aria-hidden="true">{"✓" if kind == "yes" else "✗"}</i><em>{word}</em>'
    shown = "" if cosine is None or cosine != cosine else f"{cosine:.3f}"
    title = html.escape(str(contents.titles[item]) or f"item {item}")
    try:
        there = bool(contents.image_keys[item])
        image = _picture(contents.item_image(item), title) if there else '<span class="none">no picture</span>'
    except InputError:
        image = '<span class="none">picture unreadable</span>'
    return (
        f'<figure class="{kind}"><figcaption><b>{label}</b> {mark}<span>{shown}</span></figcaption>{image}'
        f'<span class="title" title="{title}">{title}</span></figure>'
    )


def _picture(image: Image.Image | np.ndarray, told: str) -> str:
    small = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    small.thumbnail(THUMBNAIL)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY, optimize=True)
    data = base64.b64encode(out.getvalue()).decode()
    size = f'width="{small.width}" height="{small.height}"'
    return f'<img loading="lazy" decoding="async" {size} alt="{told}" src="data:image/jpeg;base64,{data}">'


def _category(contents: Contents, item: int) -> str:
    code = int(contents.category[item])
    return contents.category_names[code] if code >= 0 else "(none)"
