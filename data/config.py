"""Strict configuration: YAML -> pydantic model, with `--set a.b=c` overrides and one-line errors."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from data.errors import InputError
from data.fields import models_in


class Config(BaseModel):
    """Base of every configuration model: unknown fields are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(path: Path | str, model: type[ConfigT], overrides: Sequence[str] = ()) -> ConfigT:
    """Read `path` as YAML, apply `overrides` ("a.b=c"; list items by index or by their `name`) and validate.

    Raises InputError naming file, field and the nearest right name.
    """
    tree = read_tree(path)
    for override in overrides:
        _set(tree, override)
    return parse_config(tree, model, str(path))


def read_tree(path: Path | str) -> dict[str, Any]:
    """The YAML mapping in a file, not validated.

    Raises InputError for a file that is absent or no such mapping.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such config file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected a mapping of fields at the top level")
    return tree


def parse_config(tree: Any, model: type[ConfigT], where: str) -> ConfigT:
    """Validate a tree against `model`; `where` (a file) starts the error message.

    Raises InputError with the first problem: field, value, what would be right.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = error.errors()
        first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            names = _field_names(model, first["loc"][:-1])
            close = difflib.get_close_matches(str(first["loc"][-1]), names, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"fields here: {', '.join(sorted(names))}"
            raise InputError(f"{where}: unknown field {field!r}; {hint}") from None
        value = "" if first["type"] in ("missing", "value_error") else f" (got {first['input']!r:.80})"
        raise InputError(f"{where}: {field or 'config'}: {first['msg']}{value}") from None


def _field_names(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Names of the fields allowed at `location`, a pydantic error path (list indices and union tags skipped)."""
    models = [model]
    for part in location:
        inner = [m for parent in models if part in parent.model_fields
                 for m in models_in(parent.model_fields[str(part)].annotation)]  # fmt: skip
        tagged = [m for m in models if any(part in get_args(f.annotation) for f in m.model_fields.values())]
        models = inner or tagged or models
    return {name for m in models for name in m.model_fields}


def _set(tree: dict[str, Any], override: str) -> None:
    """Apply one "a.b=c" to `tree` in place; the value is read as YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise InputError(f"--set {override!r}: expected FIELD.FIELD=VALUE")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"--set {override!r}: the value is not valid YAML") from None
    assign(tree, path.strip(), value, f"--set {override!r}")


def assign(tree: dict[str, Any], path: str, value: Any, where: str | None = None) -> None:
    """Set the field at a dotted path of `tree` in place; list items go by index or by their `name`.

    Raises InputError, starting with `where`, if the path leads through a value or to no list item.
    """
    where = where or path
    node: Any = tree
    *parents, last = path.split(".")
    for part in parents:
        node = node[_index(node, part, where)] if isinstance(node, list) else node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise InputError(f"{where}: {part!r} holds a value, not fields")
    if isinstance(node, list):
        node[_index(node, last, where)] = value
    else:
        node[last] = value


def _index(items: list[Any], key: str, where: str) -> int:
    """Position in a list by number or by the item's `name`."""
    names = [str(item.get("name")) if isinstance(item, dict) else None for item in items]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise InputError(f"{where}: no item {key!r} in the list of {len(items)}")
