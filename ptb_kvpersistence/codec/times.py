"""Payloads of dates, times and time zones, both ways.

No method of a tzinfo is called, save for those of the standard library's fixed offsets and of pytz's own look-up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

from ptb_kvpersistence.codec.classes import loaded, module_of, mro_of
from ptb_kvpersistence.codec.place import Fault, shown, type_name
from ptb_kvpersistence.codec.scalars import is_valid_text
from ptb_kvpersistence.codec.text import Tree

Moment = TypeVar("Moment", datetime, time)
Day = TypeVar("Day", datetime, time, date)

_ZONE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+\-]*(?:/[A-Za-z0-9][A-Za-z0-9_+\-]*)*")
_MAX_ZONE: Final = 100
_PYTZ: Final = "pytz"


def encode_moment(value: Moment, encode_zone: Callable[[tzinfo], Tree]) -> Tree:
    """The payload of a datetime or time."""
    zone = value.tzinfo
    fold = value.fold
    if not fold and (zone is None or (type(zone) is timezone and len(_arguments(zone)) == 1)):
        return value.isoformat()
    return [value.replace(tzinfo=None).isoformat(), None if zone is None else encode_zone(zone), fold]


def decode_moment(cls: type[Moment], payload: Tree, decode_zone: Callable[[Tree], Any]) -> Moment:
    """The reverse of :func:`encode_moment`."""
    if type(payload) is str:
        return _from_iso(cls, payload)
    if type(payload) is not list or len(payload) != 3:
        raise Fault("a time takes an ISO 8601 str, or [str, time zone or null, fold]")
    text, zone_tree, fold = payload
    if type(fold) is not int or fold not in (0, 1):
        raise Fault("the fold of a time is 0 or 1")
    value = _from_iso(cls, text)
    zone = None if zone_tree is None else decode_zone(zone_tree)
    if value.tzinfo is not None or not (zone is None or tzinfo in mro_of(type(zone))):
        raise Fault("a time has one time zone at most, and it is a tzinfo")
    return value.replace(tzinfo=zone, fold=fold)


def decode_date(payload: Tree) -> date:
    """A date from its ISO form."""
    return _from_iso(date, payload)


def _from_iso(cls: type[Day], text: Tree) -> Day:
    if type(text) is str:
        try:
            value = cls.fromisoformat(text)
            if value.isoformat() == text:  # Python's versions differ in what else they read
                return value
        except ValueError:
            pass
    raise Fault("not a date or time as isoformat() writes it")


def encode_timedelta(value: timedelta) -> list[int]:
    """The three parts of a timedelta."""
    return [value.days, value.seconds, value.microseconds]


def decode_timedelta(payload: Tree) -> timedelta:
    """The reverse of :func:`encode_timedelta`."""
    if type(payload) is list and len(payload) == 3 and all(type(part) is int for part in payload):
        days, seconds, microseconds = payload
        if abs(days) <= 999_999_999 and 0 <= seconds < 86_400 and 0 <= microseconds < 1_000_000:
            return timedelta(days, seconds, microseconds)
    raise Fault("$timedelta takes [days, seconds, microseconds], normalised")


def _arguments(zone: timezone) -> Any:
    return zone.__getinitargs__()  # type: ignore[attr-defined]  # what pickle asks, too


def encode_zone(zone: tzinfo) -> Tree:
    """The payload of a timezone or a ZoneInfo (exactly these classes), or of a zone of pytz."""
    if type(zone) is timezone:
        if zone is timezone.utc:
            return None
        offset, *name = _arguments(zone)
        if name and not is_valid_text(name[0]):
            raise Fault("cannot store a timezone whose name has lone surrogates")
        return [encode_timedelta(offset), name[0] if name else None]
    if type(zone) is ZoneInfo:
        if type(zone.key) is not str or not _ZONE.fullmatch(zone.key):
            raise Fault("cannot store a ZoneInfo without a usual key; use ZoneInfo('Area/City')")
        return zone.key
    return _encode_pytz(zone)


def decode_zone(payload: Tree) -> tzinfo:
    """The reverse of :func:`encode_zone`."""
    if payload is None:
        return timezone.utc
    if type(payload) is str:
        return _named_zone(payload)
    if type(payload) is list and payload and payload[0] == _PYTZ:
        return _decode_pytz(payload[1:])
    if type(payload) is not list or len(payload) != 2 or not (payload[1] is None or type(payload[1]) is str):
        raise Fault("$timezone takes null, a zone's name, or [[days, seconds, microseconds], name or null]")
    offset = decode_timedelta(payload[0])
    try:
        return timezone(offset) if payload[1] is None else timezone(offset, payload[1])
    except ValueError:
        raise Fault("the offset of a time zone is less than 24 hours") from None


def _named_zone(key: str) -> tzinfo:
    if len(key) <= _MAX_ZONE and _ZONE.fullmatch(key):
        try:
            return ZoneInfo(key)  # may import parts of the package tzdata, and nothing else
        except (KeyError, OSError, ValueError):
            pass
    raise Fault(f"this system knows no time zone {shown(key)}; install the package tzdata")


# --- pytz, which older versions of PTB use for every date ---


def is_pytz(cls: type) -> bool:
    """Whether it is a class of pytz's zones."""
    return tzinfo in mro_of(cls) and module_of(cls).partition(".")[0] == _PYTZ


def _encode_pytz(zone: Any) -> Tree:
    name = zone.zone
    if type(name) is not str or not _ZONE.fullmatch(name):
        raise Fault(f"cannot store a {type_name(type(zone))}; use datetime.timezone or zoneinfo.ZoneInfo")
    if zone is loaded(_PYTZ, "timezone")(name):
        return [_PYTZ, name]
    return [_PYTZ, name, *(part // timedelta(seconds=1) for part in (zone._utcoffset, zone._dst)), zone._tzname]  # noqa: SLF001


def _decode_pytz(payload: list[Tree]) -> tzinfo:
    name, *localised = payload or [None]
    if type(name) is not str or [type(part) for part in localised] not in ([], [int, int, str]):
        raise Fault("$timezone of pytz takes a zone's name, and seconds, seconds and a name for a localised one")
    if any(abs(part) >= 86_400 for part in localised[:2]):
        raise Fault("the offset of a time zone is less than 24 hours")
    look_up = loaded(_PYTZ, "timezone")
    if look_up is not None:
        try:
            zone = look_up(name)
            if not localised:
                return zone  # type: ignore[no-any-return]
            offset, dst = (timedelta(seconds=part) for part in localised[:2])
            return zone._tzinfos[offset, dst, localised[2]]  # type: ignore[no-any-return]  # noqa: SLF001
        except (AttributeError, KeyError, OSError, ValueError):
            pass  # unknown to this version of pytz
    if localised:
        return timezone(timedelta(seconds=localised[0]), localised[2])
    return timezone.utc if name == "UTC" else _named_zone(name)
