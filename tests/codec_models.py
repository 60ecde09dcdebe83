"""Classes that the codec's tests store; the golden files name them, so none may be renamed or moved."""

import dataclasses
import enum
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import timedelta, tzinfo
from types import SimpleNamespace
from typing import Any, Generic, NamedTuple, TypeVar

import attrs
import msgspec
import pydantic

RAN: list[str] = []
"""What code of the classes below ran; each test that cares clears it first."""

T = TypeVar("T")


class Color(enum.Enum):
    RED = 1
    GREEN = "green"
    CRIMSON = 1  # noqa: PIE796 - an alias


class Size(enum.IntEnum):
    SMALL = 1
    BIG = 2


class Word(str, enum.Enum):
    YES = "yes"
    NO = "no"


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    RUN = enum.auto()
    ALL = READ | WRITE | RUN


class Mode(enum.IntFlag):
    A = 1
    B = 2
    HIGH = 1 << 70


class StrangeEnum(enum.Enum):
    """Notes whatever of it is called once its members exist."""

    ONE = 1
    TWO = 2

    @classmethod
    def _missing_(cls, value):
        RAN.append("StrangeEnum._missing_")
        return cls.ONE

    def __eq__(self, other):
        RAN.append("StrangeEnum.__eq__")
        return self is other

    __hash__ = enum.Enum.__hash__


class StrangeFlag(enum.Flag):
    A = 1
    B = 2

    @classmethod
    def _missing_(cls, value):
        RAN.append("StrangeFlag._missing_")
        return super()._missing_(value)


class Point(NamedTuple):
    x: int
    y: Any = 0


class NamedPoint(Point):  # no __slots__, so that instances have attributes, too
    pass


@dataclasses.dataclass
class Order:
    number: int
    lines: list[Any] = dataclasses.field(default_factory=list)
    note: str = ""


@dataclasses.dataclass(frozen=True)
class FrozenOrder:
    number: int
    lines: Any = ()


@dataclasses.dataclass(frozen=True, slots=True)
class SlottedOrder:
    number: int
    lines: Any = dataclasses.field(default_factory=list)
    total: int = dataclasses.field(init=False)


@dataclasses.dataclass
class BigOrder(Order):
    extra: int = 5


@dataclasses.dataclass
class Box(Generic[T]):
    item: T


@attrs.define
class Item:
    name: str
    tags: list[Any] = attrs.Factory(list)


@attrs.frozen
class FrozenItem:
    name: Any


@attrs.define(slots=False)
class DictItem:
    name: Any
    price: int = 3


@attrs.define(frozen=True, cache_hash=True)
class HashedItem:
    name: Any


class Person(pydantic.BaseModel):
    name: str
    age: int = 0
    friends: list[Any] = pydantic.Field(default_factory=list)
    _secret: Any = pydantic.PrivateAttr(default=7)


class OpenPerson(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    name: Any


class Car(msgspec.Struct):
    wheels: Any
    doors: list[Any] = []
    color: str = "red"


class FrozenCar(msgspec.Struct, frozen=True, kw_only=True, tag="car"):
    wheels: Any


class CheckedCar(msgspec.Struct):
    wheels: int

    def __post_init__(self):
        RAN.append("CheckedCar.__post_init__")


class Plain:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __eq__(self, other):
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Slotted:
    __slots__ = ("__private", "a", "b")

    def hide(self, value):
        self.__private = value

    def hidden(self):
        return self.__private


class SlottedChild(Slotted):
    __slots__ = ("c",)


class MixedChild(Slotted):
    pass


class CartDict(dict):
    pass


class Cart(OrderedDict):
    pass


class Groups(defaultdict):
    pass


class Tally(Counter):
    pass


class Lines(list):
    pass


class Tags(set):
    pass


class FrozenTags(frozenset):
    pass


class Recent(deque):
    pass


class Buffer(bytearray):
    pass


class Text(str):  # noqa: SLOT000 - its instances have attributes
    pass


class Blob(bytes):
    pass


class Number(int):
    pass


class Ratio(float):
    pass


class Wave(complex):
    pass


class Pair(tuple):  # noqa: SLOT001 - its instances have attributes
    pass


class Settings(SimpleNamespace):
    pass


class FixedZone(tzinfo):
    """A user's own time zone."""

    def __init__(self, hours):
        self.hours = hours

    def utcoffset(self, moment):
        return timedelta(hours=self.hours)

    def dst(self, moment):
        return None

    def tzname(self, moment):
        return "fixed"

    def __eq__(self, other):
        return type(other) is FixedZone and other.hours == self.hours

    def __hash__(self):
        return self.hours


class Outer:
    class Inner(enum.Enum):
        X = 1

    @dataclasses.dataclass
    class Data:
        value: Any


def _recording(name):
    def method(self, *arguments, **keywords):
        RAN.append(f"{type(self).__name__}.{name}")
        raise RuntimeError(name)

    return method


class Recorder:
    """Each of its methods notes that it ran."""

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)

    def __new__(cls, *arguments):
        RAN.append(f"{cls.__name__}.__new__")
        raise RuntimeError("__new__")

    __init__ = _recording("__init__")
    __post_init__ = _recording("__post_init__")
    __attrs_post_init__ = _recording("__attrs_post_init__")
    model_post_init = _recording("model_post_init")
    __setstate__ = _recording("__setstate__")
    __getstate__ = _recording("__getstate__")
    __reduce__ = _recording("__reduce__")
    __reduce_ex__ = _recording("__reduce_ex__")
    __getnewargs__ = _recording("__getnewargs__")
    __getnewargs_ex__ = _recording("__getnewargs_ex__")
    __setattr__ = _recording("__setattr__")
    __delattr__ = _recording("__delattr__")
    __getattr__ = _recording("__getattr__")
    __getattribute__ = _recording("__getattribute__")
    __eq__ = _recording("__eq__")
    __ne__ = _recording("__ne__")
    __hash__ = _recording("__hash__")
    __repr__ = _recording("__repr__")
    __str__ = _recording("__str__")
    __bool__ = _recording("__bool__")
    __len__ = _recording("__len__")
    __iter__ = _recording("__iter__")
    __contains__ = _recording("__contains__")
    __getitem__ = _recording("__getitem__")
    __setitem__ = _recording("__setitem__")
    __delitem__ = _recording("__delitem__")
    __copy__ = _recording("__copy__")
    __deepcopy__ = _recording("__deepcopy__")
    __json__ = _recording("__json__")
    __index__ = _recording("__index__")
    __int__ = _recording("__int__")
    __float__ = _recording("__float__")
    keys = _recording("keys")
    items = _recording("items")
    values = _recording("values")
    copy = _recording("copy")
    update = _recording("update")
    append = _recording("append")
    add = _recording("add")
    __class__ = property(_recording("__class__"), _recording("__class__"))
    number = property(_recording("number"), _recording("number"), _recording("number"))


class RecorderObject(Recorder):
    pass


class RecorderSlotted(Recorder):
    __slots__ = ("value",)


class RecorderDict(Recorder, dict):
    pass


class RecorderOrdered(Recorder, OrderedDict):
    pass


class RecorderDefault(Recorder, defaultdict):
    __missing__ = _recording("__missing__")


class RecorderList(Recorder, list):
    pass


class RecorderSet(Recorder, set):
    pass


class RecorderTuple(Recorder, tuple):  # noqa: SLOT001
    pass


class RecorderStr(Recorder, str):  # noqa: SLOT000
    pass


class RecorderInt(Recorder, int):
    pass


class RecorderDeque(Recorder, deque):
    pass


@dataclasses.dataclass(init=False, eq=False, repr=False)
class RecorderData(Recorder):
    number: Any
    other: Any = dataclasses.field(default_factory=lambda: RAN.append("default_factory"))


@attrs.define(init=False, eq=False, repr=False, slots=False)
class RecorderAttrs(Recorder):
    number: Any
    other: Any = attrs.field(default=0, validator=_recording("validator"), on_setattr=_recording("on_setattr"))


class RecorderPoint(Recorder, Point):
    pass


RECORDERS = (
    RecorderObject,
    RecorderSlotted,
    RecorderDict,
    RecorderOrdered,
    RecorderDefault,
    RecorderList,
    RecorderSet,
    RecorderTuple,
    RecorderStr,
    RecorderInt,
    RecorderDeque,
    RecorderData,
    RecorderAttrs,
)


class Finalizer:
    def __del__(self):
        RAN.append("Finalizer.__del__")


@dataclasses.dataclass
class FinalizerData(Finalizer):
    value: Any = 0


class RecorderPerson(pydantic.BaseModel):
    name: str
    age: int = 0

    @pydantic.field_validator("name", mode="before")
    @classmethod
    def _check(cls, value):
        RAN.append("RecorderPerson validator")
        return value

    @pydantic.model_validator(mode="after")
    def _check_all(self):
        RAN.append("RecorderPerson model_validator")
        return self

    @pydantic.model_serializer(mode="plain")
    def _write(self):
        RAN.append("RecorderPerson serializer")
        return {}

    def model_post_init(self, context):
        RAN.append("RecorderPerson model_post_init")


REGISTERED = (
    Person,
    OpenPerson,
    Car,
    FrozenCar,
    Plain,
    Slotted,
    SlottedChild,
    MixedChild,
    CartDict,
    Cart,
    Groups,
    Tally,
    Lines,
    Tags,
    FrozenTags,
    Recent,
    Buffer,
    Text,
    Blob,
    Number,
    Ratio,
    Wave,
    Pair,
    Settings,
    FixedZone,
)
