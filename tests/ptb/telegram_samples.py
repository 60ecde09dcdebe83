"""Instances of every class of Telegram objects, built from the signatures of the installed python-telegram-bot."""

from __future__ import annotations

import datetime
import enum
import inspect
import random
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ForwardRef, Literal, TypeVar, Union

import telegram
import telegram._utils.types
import telegram.constants
import telegram.ext
from telegram import Bot, TelegramObject
from telegram._utils.defaultvalue import DefaultValue

UTC = datetime.timezone.utc
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)
DEPTH = 2


def _subclasses(cls: Any) -> set[Any]:
    return {cls}.union(*map(_subclasses, cls.__subclasses__()))


ALL = sorted(
    (c for c in _subclasses(TelegramObject) if c.__module__.startswith("telegram.") and not issubclass(c, Bot)),
    key=lambda c: c.__name__,
)
BY_NAME = {cls.__name__: cls for cls in ALL}

_NAMES: dict[str, Any] = {
    **vars(typing),
    **vars(telegram._utils.types),
    **{name: value for name, value in vars(telegram.constants).items() if isinstance(value, type)},
    **BY_NAME,
    "Bot": Bot,
    "InputFile": telegram.InputFile,
    "JSONDict": dict[str, Any],
    "FileInput": str,
    "ODVInput": Union,
    "DefaultValue": DefaultValue,
    "DVValueType": TypeVar("DVValueType"),
    "InputPollOptionMedia": telegram.InputMedia,
    "dtm": datetime,
    "Sequence": Sequence,
    "Collection": Collection,
    "Mapping": Mapping,
}


class _Any:
    def __class_getitem__(cls, item: Any) -> Any:
        return item


_NAMES["ODVInput"] = _Any


def annotations_of(cls: Any) -> dict[str, tuple[inspect.Parameter, Any]]:
    """The arguments of ``__init__`` with their annotations, except api_kwargs."""
    init: Any = cls.__init__
    found = {}
    for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
        if name == "api_kwargs" or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        found[name] = (parameter, resolve(parameter.annotation, init.__globals__))
    return found


def resolve(annotation: Any, namespace: dict[str, Any]) -> Any:
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return resolve(eval(annotation, {**_NAMES, **namespace}, dict(_NAMES)), namespace)
    return annotation


class Samples:
    """Builds instances.

    Args:
        seed: For the choices.
        optional: How likely an optional argument is given.
        falsy: How likely a value is empty, zero or False.
    """

    def __init__(self, seed: object, *, optional: float = 1.0, falsy: float = 0.0) -> None:
        self.random = random.Random(f"{seed}")
        self.optional = optional
        self.falsy = falsy

    def instance(self, cls: type, depth: int = 0) -> Any:
        """An instance; what the class says about its arguments being required or excluding each other is followed."""
        annotations = annotations_of(cls)
        wanted = {
            name
            for name, (parameter, _) in annotations.items()
            if parameter.default is parameter.empty or (depth < DEPTH and self.random.random() < self.optional)
        }
        for _ in range(10):
            arguments = {
                name: self.value(annotations[name][1], name, cls, depth) for name in annotations if name in wanted
            }
            try:
                return cls(**arguments)
            except TypeError as error:
                wanted |= set(re.findall(r"\w+", str(error))) & set(annotations)
            except ValueError as error:
                wanted.discard(next(name for name in annotations if name in wanted and name in str(error)))
        raise AssertionError(f"cannot build a {cls.__name__}")

    def value(self, annotation: Any, name: str, cls: type, depth: int) -> Any:
        namespace = inspect.getmodule(cls).__dict__
        annotation = resolve(annotation, namespace)
        falsy = self.random.random() < self.falsy
        special = self._special(name, cls)
        if special is not None:
            return special
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is Literal:
            return self.random.choice(args)
        if origin is Union or isinstance(annotation, types.UnionType):
            choices = [arg for arg in args if arg is not type(None) and resolve(arg, namespace) is not DefaultValue]
            choices = [arg for arg in choices if typing.get_origin(resolve(arg, namespace)) is not DefaultValue]
            return self.value(self.random.choice(choices), name, cls, depth)
        if origin in (list, tuple, Sequence, Iterable, Collection):
            if falsy:
                return ()
            item = args[0] if args else str
            return tuple(self.value(item, name, cls, depth + 1) for _ in range(self.random.randint(1, 2)))
        if origin in (dict, Mapping):
            return {} if falsy else {"key": self.value(args[1], name, cls, depth + 1)}
        return self._scalar(annotation, falsy, depth)

    def _special(self, name: str, cls: type) -> Any:
        if name == "type" and cls.__name__ in ("Chat", "ChatFullInfo"):
            return "supergroup"
        return {"time_zone_name": "Europe/Berlin", "chat_id": 1234}.get(name)

    def _scalar(self, annotation: Any, falsy: bool, depth: int) -> Any:
        if annotation is Any or annotation is object:
            return "anything"
        if annotation is str:
            return "" if falsy else self.random.choice(["text", "Gruesse", "Grüße", "\N{GRINNING FACE}"])
        if annotation is bool:
            return not falsy
        if annotation is int:
            return 0 if falsy else self.random.choice([1, 7, 123456789012, -5])
        if annotation is float:
            return 0.0 if falsy else 2.5
        if annotation is datetime.datetime:
            return MOMENT + datetime.timedelta(seconds=self.random.randint(0, 10**6))
        if annotation is datetime.timedelta:
            return datetime.timedelta(0 if falsy else 90)
        if annotation is bytes:
            return "file_id"  # PTB takes bytes for uploads only, and those are not stored
        if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            return self.random.choice(list(annotation))
        if annotation in (Path, telegram.InputFile) or typing.get_origin(annotation) is IO:
            return "file_id"
        if isinstance(annotation, type) and issubclass(annotation, TelegramObject):
            subclasses = [c for c in _subclasses(annotation) if c in ALL and not c.__name__.startswith("_")]
            return self.instance(self.random.choice(sorted(subclasses, key=lambda c: c.__name__)), depth + 1)
        if isinstance(annotation, TypeVar):
            return "anything"
        raise NotImplementedError(annotation)
