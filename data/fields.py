"""The fields of a configuration as an annotated YAML outline, straight from the models: it cannot fall behind them."""

import argparse
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

COMMENT_AT = 44


def outline(model: type[BaseModel]) -> str:
    """Every field with its default (or kind of value) and meaning; models met again are named only."""
    return "\n".join(_lines(model, "", set()))


class ShowFields(argparse.Action):
    """Option that prints the outline of `model` and ends the command, as --help does."""

    def __init__(self, *args: Any, model: type[BaseModel], **kwargs: Any) -> None:
        super().__init__(*args, nargs=0, **kwargs)
        self.model = model

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit with status 0."""
        print(outline(self.model))
        parser.exit()


def _lines(model: type[BaseModel], indent: str, met: set[type[BaseModel]]) -> Iterator[str]:
    met.add(model)
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        value = "" if inner else _value(field)
        yield _line(f"{indent}{name}:{' ' if value else ''}{value}", _meaning(field, inner))
        holder = _holder(field.annotation)
        for part in inner:
            deeper = indent + "  "
            if holder is dict:
                yield f"{deeper}NAME:"
                deeper += "  "
            if part in met:
                yield _line(f"{deeper}...", f"{part.__name__}, as above")
                continue
            found = list(_lines(part, deeper + ("  " if holder is tuple else ""), met))
            if len(inner) > 1:
                yield f"{deeper}# {_summary(part)}"
            if holder is tuple and found:
                found[0] = f"{deeper}- {found[0][len(deeper) + 2 :]}"
            yield from found


def _line(text: str, meaning: str) -> str:
    return f"{text:<{COMMENT_AT}} # {meaning}" if meaning else text


def _meaning(field: FieldInfo, inner: list[type[BaseModel]]) -> str:
    """The description; where a model has none of its own, its docstring's first line."""
    if field.description or not inner:
        return field.description or ""
    return _summary(inner[0]) if len(inner) == 1 else ""


def _summary(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split()).removesuffix(".")


def _value(field: FieldInfo) -> str:
    kind = _kind(field.annotation)
    if field.default is PydanticUndefined and field.default_factory is None:
        return f"<{kind}>"
    default = field.get_default(call_default_factory=True)
    shown = "null" if default is None else str(list(default) if isinstance(default, tuple) else default)
    shown = shown.lower() if isinstance(default, bool) else shown
    return shown if default is not None and kind in ("int", "float", "bool", "str") else f"{shown}  <{kind}>"


def _kind(annotation: Any) -> str:
    """A type as a reader of YAML would say it: choices by name, lists as such."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (tuple, list):
        return f"list of {_kind(args[0])}"
    if origin is dict:
        return f"{_kind(args[0])}: {_kind(args[1])}"
    if args:
        return " | ".join(_kind(a) for a in args if (isinstance(a, type) or get_args(a)) and a is not type(None))
    return getattr(annotation, "__name__", str(annotation))


def _holder(annotation: Any) -> type | None:
    """tuple or dict, if the annotation (or a part of it) is one."""
    origin = get_origin(annotation)
    if origin in (tuple, dict):
        return origin
    return next((found for part in get_args(annotation) if (found := _holder(part))), None)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every pydantic model inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in models_in(part)]
