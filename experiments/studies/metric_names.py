"""The intermediate metrics that the exchange-rate study fits, in words."""

TITLES = {
    "image_search_hr@1": "picture search, HR@1",
    "image_search_hr@10": "picture search, HR@10",
    "image_search_mrr": "picture search, MRR",
    "text_search_hr@10": "text search, HR@10",
    "item_item_hr@10": "item to item, HR@10",
    "next_item": "next item, union recall over chance",
    "contrastive": "contrastive loss (turned)",
    "category": "neighbours of the same category",
}
