"""Items of a dataset for people to look at: their titles and small pictures inside the page."""

import base64
import io
from html import escape

from data.dataset import Dataset
from data.errors import InputError
from moon_encoder.forms import Catalogue, Contents

SIDE, QUALITY = 112, 74  # pixels of a picture's longer side, JPEG quality


class Pictures:
    """Titles and pictures of a dataset's items."""

    def __init__(self, dataset: Dataset) -> None:
        """Raises InputError if the dataset's pictures are not where it says."""
        self.contents = Contents.of(dataset, Catalogue(rich=()))  # pyright: ignore[reportCallIssue]

    def title(self, item: int) -> str:
        """The item's title, or its number."""
        return str(self.contents.titles[item]) or f"item {item}"

    def category(self, item: int) -> int:
        """Code of the item's category; -1: none."""
        return int(self.contents.category[item])

    def has(self, item: int) -> bool:
        """Whether there is a picture."""
        return bool(self.contents.image_keys[item])

    def html(self, item: int, below: str = "") -> str:
        """Picture and title, and what stands below them (HTML)."""
        title = escape(self.title(item))
        return f'{self._picture(item, title)}<span class="name" title="{title}">{title}</span>{below}'

    def _picture(self, item: int, title: str) -> str:
        if not self.has(item):
            return '<span class="none">no picture</span>'
        try:
            small = self.contents.item_image(item).copy()
        except InputError:
            return '<span class="none">unreadable</span>'
        small.thumbnail((SIDE, SIDE))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=QUALITY, optimize=True)
        data = base64.b64encode(out.getvalue()).decode()
        size = f'width="{small.width}" height="{small.height}"'
        return f'<img {size} alt="{title}" src="data:image/jpeg;base64,{data}">'


def bar(name: str, share: float, text: str, series: int) -> str:
    """A small bar with its figure. share: of its full length, 0 to 1."""
    width = f"{100 * min(max(share, 0.0), 1.0):.0f}%"
    told = f'<span class="visually">{escape(name)} </span>' if name else ""
    return f'<span class="bar s{series}">{told}<span>{text}</span><i><b style="width:{width}"></b></i></span>'
