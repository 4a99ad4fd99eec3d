"""Parameters of the simulated marketplace. docs/marketplace.md states where each default comes from."""

from pathlib import Path

from pydantic import Field, model_validator

from data.config import Config, load_config

MARKET_FILE = "market.yaml"


class Market(Config):
    """One world. Two worlds with equal fields are equal to the last byte."""

    seed: int = Field(0, ge=0, description="seed of everything")
    days: int = Field(14, ge=3, description="days of logs")
    later_days: int = Field(
        7, ge=0, description="days after the logs for which products are listed already; an online test plays them"
    )
    first_day: int = Field(1_735_689_600, ge=0, description="Unix seconds of the first midnight")
    items: int = Field(1200, ge=50, description="SKUs born during the logs")
    skus_per_spu: float = Field(1.6, ge=1, description="mean SKUs of a product; they differ in colour only")
    born_later: float = Field(0.3, ge=0, lt=1, description="share of products born after the first day")
    colour_named: float = Field(0.5, ge=0, le=1, description="share of titles that name the colour")
    sellers: int = Field(120, ge=1, description="sellers; products fall on them by a Zipf law")
    seller_tail: float = Field(1.1, gt=0, description="exponent of that law")
    users: int = Field(500, ge=10, description="users")
    activity_tail: float = Field(1.0, ge=0, description="sigma of the lognormal number of sessions of a user")
    sessions_per_day: int = Field(2000, ge=10, description="sessions a day, one query each")
    image_queries: float = Field(0.2, ge=0, le=1, description="share of queries that are a photo")
    colour_queries: float = Field(0.3, ge=0, le=1, description="share of text queries that name a colour")
    query_pull: float = Field(0.7, ge=0, le=1, description="weight of a shown or named style against the user's taste")
    candidates: int = Field(40, ge=2, description="items retrieved for a query")
    retrieval_focus: float = Field(2.0, ge=0, description="how much retrieval prefers the style asked for, in logits")
    slots: int = Field(6, ge=1, description="ads shown for a query")
    ctr: float = Field(0.02, gt=0, lt=0.5, description="click-through rate of the first slot for the mean item")
    position_decay: float = Field(0.85, gt=0, le=1, description="examination of a slot relative to the one above it")
    utility_spread: float = Field(1.5, gt=0, description="standard deviation of the click utility, in logits")
    content_share: float = Field(0.4, ge=0, le=1, description="share of that variance that only the picture explains")
    category_share: float = Field(0.2, ge=0, le=1, description="share explained by the user's category preference")
    price_share: float = Field(0.1, ge=0, le=1, description="share explained by price against the user's price level")
    taste_drift: float = Field(0.05, ge=0, le=1, description="share of a user's taste that is renewed every day")
    margin: float = Field(0.3, gt=0, le=1, description="share of an order's price that is worth something to a seller")
    bid_shading: float = Field(0.5, gt=0, le=1, description="median bid as a share of what a click is worth")
    bid_spread: float = Field(0.3, ge=0, description="sigma of a seller's lognormal deviation from the median bid")
    reserve: float = Field(0.05, ge=0, lt=0.5, description="quantile of a category's bids below which none takes part")
    exploration: float = Field(0.2, gt=0, le=1, description="probability that a slot is filled uniformly")
    greed: float = Field(1.0, ge=0, description="exponent of bid x pCTR in the logging policy's lottery for a slot")
    cart_rate: float = Field(0.2, ge=0, le=1, description="carts a click")
    order_rate: float = Field(0.35, ge=0, le=1, description="orders a cart")
    photos: str | None = Field(
        None, description="folder of a real catalogue (items.parquet, images.tar as in fashion_products); None: drawn"
    )
    image_size: int = Field(96, ge=16, le=1024, description="width and height of a photo, pixels")

    @model_validator(mode="after")
    def _possible(self) -> "Market":
        shares = self.content_share + self.category_share + self.price_share
        if shares > 1 + 1e-9:
            raise ValueError(
                f"content_share + category_share + price_share = {shares:g}; at most 1 (the rest: quality)"
            )
        if self.candidates < self.slots:
            raise ValueError(f"candidates = {self.candidates} cannot fill slots = {self.slots}")
        return self


def world_of(logs: Path) -> Market:
    """The world that wrote the logs in a folder.

    Raises InputError if the folder holds no simulated logs.
    """
    return load_config(logs / MARKET_FILE, Market)
