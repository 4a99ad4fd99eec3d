"""The truth of the world: what an item is worth to a user under a query, and the click probability it gives."""

import numpy as np

from data.marketplace.catalogue import BASE_PRICE, Items
from data.marketplace.config import Market
from data.marketplace.sessions import Query
from data.marketplace.style import STYLE_DIM
from data.marketplace.users import Users


def content_term(items: Items, users: Users, user: np.ndarray, query: Query, item: np.ndarray) -> np.ndarray:
    """(S, M): desire . style / sqrt(STYLE_DIM), mean 0 and variance 1 over random users and items; only photos tell."""
    return np.einsum("sd,smd->sm", query.desire(users.taste[user]), items.vector[item]) / np.sqrt(STYLE_DIM)


def utility(items: Items, users: Users, market: Market, user: np.ndarray, query: Query, item: np.ndarray) -> np.ndarray:
    """(S, M) click utility in logits of users (S,) under a query of S sessions for items (S, M).

    A weighted sum of four independent terms of variance about one: content, the user's liking of the category, nearness
    of the price, and quality; the weights are the square roots of the shares, times `utility_spread`.
    """
    category = users.category[user[:, None], items.category[item]]
    level = np.log(items.price[item] / BASE_PRICE[items.category[item]])
    price = (0.45 - np.abs(level - users.price_level[user][:, None])) / 0.34  # |N(0, .57)|: mean .45, sd .34
    rest = 1 - market.content_share - market.category_share - market.price_share
    total = np.sqrt(market.category_share) * category + np.sqrt(market.price_share) * price
    total += np.sqrt(max(rest, 0.0)) * items.quality[item]
    total += np.sqrt(market.content_share) * content_term(items, users, user, query, item)
    return market.utility_spread * total


def true_ctr(
    items: Items,
    users: Users,
    market: Market,
    user: np.ndarray,
    query: Query,
    item: np.ndarray,
    position: np.ndarray | int,
) -> np.ndarray:
    """(S, M) click probability, `position_decay ** position * sigmoid(logit(ctr) + utility)`; position from 0."""
    logit = np.log(market.ctr / (1 - market.ctr)) + utility(items, users, market, user, query, item)
    return market.position_decay ** np.asarray(position) / (1 + np.exp(-logit))
