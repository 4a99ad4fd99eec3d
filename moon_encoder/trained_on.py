"""What a saved encoder says of its training, as far as it matters to those who use it."""

from data.config import parse_config
from moon_encoder.checkpoint import EncoderInfo
from moon_encoder.forms import Catalogue
from moon_encoder.held_out import HeldOut


def catalogue_columns(info: EncoderInfo) -> Catalogue:
    """Which catalogue columns its texts were made of; the defaults where it was not trained on a catalogue."""
    return parse_config(_config(info).get("catalogue", {}), Catalogue, f"encoder {info.name}: facts.config.catalogue")


def held_out_rule(info: EncoderInfo) -> HeldOut | None:
    """Which items it never saw; None for an encoder that was not trained here."""
    rule = _config(info).get("held_out")
    return None if rule is None else parse_config(rule, HeldOut, f"encoder {info.name}: facts.config.held_out")


def _config(info: EncoderInfo) -> dict:
    return info.facts.get("config") or {}
