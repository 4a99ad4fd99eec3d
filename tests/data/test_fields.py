"""The outline of a configuration names every field, and every field says what it means."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

import moon
from data.column_map import ColumnMap
from data.config import Config
from data.fields import models_in, outline
from data.marketplace.config import Market
from ranker.config import Recipe


class Round(Config):
    """A circle."""

    kind: Literal["round"] = Field(description="which")
    radius: float = Field(1.5, description="in metres")


class Square(Config):
    """A square,
    upright.

    And more.
    """

    kind: Literal["square"] = Field(description="which")
    side: int | None = Field(None, description="in metres; None: one")


class Picture(Config):
    shapes: tuple[Annotated[Round | Square, Field(discriminator="kind")], ...] = Field((), description="in order")
    named: dict[str, Round] = Field(default_factory=dict, description="by name")
    border: Square | None = Field(None)
    sizes: tuple[int, ...] = Field((3, 4), description="in pixels")
    loud: bool = Field(True, description="whether")
    title: str = Field(description="above it")


OUTLINE = """\
shapes:                                      # in order
  # A circle
  - kind: <round>                            # which
    radius: 1.5                              # in metres
  # A square, upright
  - kind: <square>                           # which
    side: null  <int>                        # in metres; None: one
named:                                       # by name
  NAME:
    ...                                      # Round, as above
border:                                      # A square, upright
  ...                                        # Square, as above
sizes: [3, 4]  <list of int>                 # in pixels
loud: true                                   # whether
title: <str>                                 # above it"""


def test_the_outline():
    assert outline(Picture) == OUTLINE


def every_model(model: type[BaseModel]) -> set[type[BaseModel]]:
    inner = [m for field in model.model_fields.values() for m in models_in(field.annotation)]
    return {model}.union(*(every_model(m) for m in inner))


@pytest.mark.parametrize("model", [Recipe, ColumnMap, Market])
def test_every_field_says_what_it_means(model):
    for part in every_model(model):
        assert part.__doc__, part
        for name, field in part.model_fields.items():
            told = name == "kind" or len(models_in(field.annotation)) == 1  # by the model's docstring
            assert field.description or told, f"{part.__name__}.{name}"


@pytest.mark.parametrize(("command", "line"), [("train", "batch_size: 4096"), ("prepare", "impressions:")])
def test_a_command_shows_the_fields_of_its_file(command, line, capsys):
    with pytest.raises(SystemExit) as done:
        moon.main([command, "--fields"])
    assert done.value.code == 0 and line in capsys.readouterr().out
