"""The column map of source `tabular`: where in a user's own files the canonical columns stand."""

import operator
import re
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from data.config import Config
from data.images import ImageStore

RULE = re.compile(r"^\s*(?P<column>[^\s<>=!]+)\s*(?P<op>>=|<=|==|!=|>|<)\s*(?P<value>.+?)\s*$")
OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def _check_rule(text: str) -> str:
    if not RULE.match(text):
        raise ValueError(
            f"{text!r} is no rule; write COLUMN OPERATOR VALUE, for instance rating >= 4 or event == 'buy'"
        )
    return text


Rule = Annotated[str, AfterValidator(_check_rule)]
TsUnit = Literal["s", "ms", "us", "ns", "datetime"]
Kind = Literal["whole", "number", "text"]


RESERVED = {
    *("ts", "user", "item", "label", "history_end", "history_row", "request_id", "position", "query"),
    *("query_image", "propensity"),
    *("item_impressions", "item_positives", "user_impressions", "user_positives"),
    *("user_id", "item_id", "action", "sample", "split", "row"),
}


class EventColumns(Config):
    """Columns that every event has."""

    user: str = Field("user_id", description="column of the user id (whole numbers or text)")
    item: str = Field("item_id", description="column of the item id (whole numbers or text)")
    ts: str = Field("ts", description="column of the time")
    ts_unit: TsUnit = Field("s", description="unit of ts since 1970, or `datetime` (a datetime or ISO text, UTC)")


class Impressions(EventColumns):
    """The rows to learn from: one shown item each."""

    files: str | tuple[str, ...] = Field(description="parquet or CSV globs, relative to --root")
    label: str = Field(description='column of 0 and 1, or a rule: "rating >= 4"')
    request_id: str | None = Field(None, description="column that rows of one request share (whole numbers)")
    position: str | None = Field(None, description="column of the slot, from 1")
    propensity: str | None = Field(
        None, description="column of the logging policy's probability for this item and slot"
    )
    query: str | None = Field(None, description="column of the search text")
    query_image: str | None = Field(
        None, description="column of the picture searched with: key in a store of role query"
    )
    context: dict[str, Kind] = Field(default_factory=dict, description="further columns for the ranker")

    @field_validator("context")
    @classmethod
    def _own_names(cls, context: dict[str, Kind]) -> dict[str, Kind]:
        taken = sorted(RESERVED & set(context))
        if taken:
            raise ValueError(
                f"{taken[0]!r} is a name that prepared samples use themselves; map it by its own field or rename it"
            )
        return context


class BehaviorFiles(EventColumns):
    """Behaviours in files of their own."""

    action: str = Field(description="name of the action, e.g. order")
    files: str | tuple[str, ...] = Field(description="parquet or CSV globs, relative to --root")
    when: Rule | None = Field(None, description="rows that count; None: all")


class BehaviorRule(Config):
    """Behaviours that are impressions of a kind, e.g. the clicked ones."""

    action: str = Field(description="name of the action, e.g. click")
    when: Rule = Field(description="rule over the impressions' columns")


class PairFiles(Config):
    """Pairs of a query and its item in files of their own."""

    files: str | tuple[str, ...] = Field(description="parquet or CSV globs, relative to --root")
    item: str = Field("item_id", description="column of the item id")
    query: str | None = Field(None, description="column of the query's text")
    query_image: str | None = Field(None, description="column of the query's picture: key in a store of role query")

    @model_validator(mode="after")
    def _a_query(self) -> "PairFiles":
        if self.query is None and self.query_image is None:
            raise ValueError("name the column of the query's text (query) or picture (query_image)")
        return self


class Catalogue(Config):
    """The items."""

    files: str | tuple[str, ...] = Field(description="parquet or CSV globs, relative to --root")
    item: str = Field("item_id", description="column of the item id")
    title: str | None = Field(None, description="column of the title")
    category: str | None = Field(None, description="column of the category")
    brand: str | None = Field(None, description="column of the brand")
    seller: str | None = Field(None, description="column of the seller")
    price: str | None = Field(None, description="column of the price, in any one unit")
    image_key: str | None = Field(None, description="column of the image's key: file name, or value in a parquet store")
    columns: tuple[str, ...] = Field((), description="further columns to keep")


class Users(Config):
    """User columns."""

    files: str | tuple[str, ...] = Field(description="parquet or CSV globs, relative to --root")
    user: str = Field("user_id", description="column of the user id")
    columns: tuple[str, ...] = Field(description="columns to keep")


class SplitMap(Config):
    """How samples are divided: by time over all (`temporal`) or by order within each user."""

    rule: Literal["temporal", "within_user"] = Field("temporal", description="order over all rows, or of each user")
    train: float = Field(0.8, gt=0, lt=1, description="share of train")
    valid: float = Field(0.1, gt=0, lt=1, description="share of valid; the rest is test")
    cuts: tuple[int, int] | None = Field(None, description="temporal: Unix seconds at which valid and test begin")

    @model_validator(mode="after")
    def _room_for_test(self) -> "SplitMap":
        if self.train + self.valid >= 1:
            raise ValueError("train + valid must be below 1, the rest is test")
        if self.cuts is not None and (self.rule != "temporal" or self.cuts[0] >= self.cuts[1]):
            raise ValueError("cuts are two ascending times and go with rule: temporal")
        return self


def _behavior_kind(value: Any) -> str:
    """`files` or `rule`, by whether the entry names files or columns of theirs."""
    names = {"files", *EventColumns.model_fields}
    named = bool(names & set(value)) if isinstance(value, dict) else isinstance(value, BehaviorFiles)
    return "files" if named else "rule"


Behavior = Annotated[
    Annotated[BehaviorRule, Tag("rule")] | Annotated[BehaviorFiles, Tag("files")], Discriminator(_behavior_kind)
]


class ColumnMap(Config):
    """A user's logs, described."""

    name: str = Field("tabular", description="name of the source in dataset.json")
    impressions: Impressions = Field(description="the rows to learn from")
    behaviors: tuple[Behavior, ...] = Field((), description="what histories are made of")
    catalogue: Catalogue | None = Field(None, description="the items; None: ids only, from the log")
    users: Users | None = Field(None, description="the users; None: ids only, from the log")
    pairs: PairFiles | None = Field(None, description="pairs to train the encoder on; None: from the log alone")
    images: tuple[ImageStore, ...] = Field((), description="image stores, paths relative to --root")
    split: SplitMap = Field(default_factory=SplitMap, description="how samples are divided")  # pyright: ignore[reportArgumentType]

    @model_validator(mode="after")
    def _actions_once(self) -> "ColumnMap":
        names = [b.action for b in self.behaviors]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"action {twice[0]!r} stands twice under behaviors")
        return self


def rule_column(rule: str) -> str:
    """The column a rule (or a plain column name) reads."""
    match = RULE.match(rule)
    return match["column"] if match else rule


def rule_expression(rule: str) -> pl.Expr:
    """Boolean expression of a rule; null where the column is null."""
    match = RULE.match(rule)
    assert match is not None
    return OPERATORS[match["op"]](pl.col(match["column"]), pl.lit(_literal(match["value"])))


def _literal(text: str) -> int | float | str | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")
