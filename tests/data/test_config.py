"""Configuration: overrides land where they should; each mistake is one line with the field and what would be right."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from data.config import Config, load_config
from data.errors import InputError


class Round(Config):
    kind: Literal["round"]
    radius: float = Field(1.0, gt=0)


class Square(Config):
    kind: Literal["square"]
    side: int


class Layer(Config):
    name: str
    shape: Annotated[Round | Square, Field(discriminator="kind")]


class Recipe(Config):
    steps: int = 10
    seed: int | None = None
    layers: tuple[Layer, ...] = ()
    by_name: dict[str, Round] = Field(default_factory=dict)


TEXT = """
steps: 3
layers:
  - {name: first, shape: {kind: round, radius: 2}}
  - {name: second, shape: {kind: square, side: 4}}
by_name: {a: {kind: round}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    return path


def test_overrides(file):
    changes = ["steps=7", "layers.1.shape.side=9", "layers.first.shape={kind: square, side: 1}", "by_name.b.kind=round"]
    found = load_config(file, Recipe, changes)
    assert found.steps == 7 and found.by_name["b"].radius == 1.0
    assert [layer.shape for layer in found.layers] == [Square(kind="square", side=1), Square(kind="square", side=9)]
    assert load_config(file, Recipe, ["seed=null"]).seed is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("step=4", "unknown field 'step'; did you mean 'steps'?"),
        ("zzz=4", "unknown field 'zzz'; fields here: by_name, layers, seed, steps"),
        ("layers.0.shape.raduis=4", "unknown field 'layers.0.shape.round.raduis'; did you mean 'radius'?"),
        ("by_name.a.radios=4", "unknown field 'by_name.a.radios'; did you mean 'radius'?"),
        ("steps=many", "steps: Input should be a valid integer, unable to parse string as an integer (got 'many')"),
        ("layers.0.shape.radius=0", "layers.0.shape.round.radius: Input should be greater than 0 (got 0)"),
        ("layers.0={name: x}", "layers.0.shape: Field required"),
    ],
)
def test_wrong_fields_name_the_file_and_the_nearest(file, change, message):
    with pytest.raises(InputError) as error:
        load_config(file, Recipe, [change])
    assert str(error.value) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps", "--set 'steps': expected FIELD.FIELD=VALUE"),
        ("=3", "--set '=3': expected FIELD.FIELD=VALUE"),
        ("steps=[1", "--set 'steps=[1': the value is not valid YAML"),
        ("steps.a=1", "--set 'steps.a=1': 'steps' holds a value, not fields"),
        ("layers.third.name=1", "--set 'layers.third.name=1': no item 'third' in the list of 2"),
        ("layers.2.name=1", "--set 'layers.2.name=1': no item '2' in the list of 2"),
    ],
)
def test_wrong_overrides(file, change, message):
    with pytest.raises(InputError) as error:
        load_config(file, Recipe, [change])
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML: while parsing"),
        ("- 1", "expected a mapping of fields at the top level"),
        ("", "expected a mapping of fields at the top level"),
        ("\x00", "not valid YAML: "),
    ],
)
def test_files_that_are_no_mapping(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_config(tmp_path / "c.yaml", Recipe)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{tmp_path / 'c.yaml'}: ")


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.yaml: no such config file"):
        load_config(tmp_path / "nothing.yaml", Recipe)
    with pytest.raises(InputError, match="no such config file"):
        load_config(tmp_path, Recipe)
