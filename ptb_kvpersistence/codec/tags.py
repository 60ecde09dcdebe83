r"""The stored format, version 1: how Python values stand in JSON. Constants only; the work is done elsewhere.

Text is UTF-8 JSON without spaces, one value per entry. ``None``, ``bool``, ``str``, finite ``float``, ``int`` from
-2^63 to 2^64-1, ``list`` and ``dict`` with str keys are plain JSON, in their order. A *tag* is an object with exactly
one key, and that key begins with ``$``; every other value is one of these. A user's own dict that looks so is written
as ``$dict``. An object with several keys is never a tag. In the payloads below, *v* is any value in this notation.

Containers (``[[v, v], ...]`` are pairs of key and value, in order; sets are sorted by the text of their elements)::

    {"$tuple": [v, ...]}                      {"$set": [v, ...]}          {"$frozenset": [v, ...]}
    {"$dict": [[v, v], ...]}                  keys that are not all str, or a dict that looks like a tag
    {"$OrderedDict": [[v, v], ...]}           {"$Counter": [[v, v], ...]}
    {"$defaultdict": [f, [[v, v], ...]]}      f: null, a name of FACTORIES, or a registered class by its name
    {"$deque": [[v, ...], maxlen or null]}    {"$range": [v, v, v]}       start, stop, step; ints

Scalars::

    {"$int": "18446744073709551616"}    beyond 64 bits: decimal; past some 3900 digits hexadecimal, "0x..." or "-0x..."
    {"$float": "nan"}                   or "inf" or "-inf"
    {"$complex": [v, v]}                real and imaginary part, floats
    {"$str": ["ab", 55296, "c"]}        a str with lone surrogates: its parts, surrogates as numbers
    {"$bytes": "AAE="}                  {"$bytearray": "AAE="}      base64
    {"$decimal": "1.10"}                also "NaN", "sNaN", "-Infinity", "1E+5"
    {"$uuid": "12345678-1234-5678-1234-567812345678"}
    {"$path": ["PurePosixPath", v]}     or PosixPath, PureWindowsPath, WindowsPath; v: the path as str
                                        (the other system's path is read as the pure one)

Dates and times, ISO 8601 as ``isoformat`` writes it::

    {"$date": "2024-02-29"}
    {"$datetime": "2024-02-29T12:00:00.000001"}         naive
    {"$datetime": "2024-02-29T12:00:00+00:00"}          UTC or another fixed offset without a name, fold 0
    {"$datetime": ["2024-02-29T12:00:00", v, fold]}     everything else; v: the tzinfo or null, fold: 0 or 1
    {"$time": ...}                                      like $datetime
    {"$timedelta": [days, seconds, microseconds]}       normalised as Python does
    {"$timezone": null}                                 datetime.timezone.utc
    {"$timezone": "Europe/Berlin"}                      zoneinfo.ZoneInfo
    {"$timezone": [[days, seconds, microseconds], s]}   datetime.timezone; s: its name or null
    {"$timezone": ["pytz", zone]}                       a zone of pytz, as pytz.timezone(zone) gives it
    {"$timezone": ["pytz", zone, offset, dst, s]}       one localised by pytz: seconds, seconds, name
                                                        (without pytz: the standard library's nearest zone)

Classes, named ``"module:Qualname"``; a field's value is a *v*::

    {"$enum": [class, member name]}
    {"$flag": [class, v]}                               v: the int value
    {"$namedtuple": [class, {field: v, ...}]}           a third item {attribute: v, ...} where there are attributes
    {"$dataclass": [class, {attribute: v, ...}]}
    $attrs, $pydantic, $msgspec, $object                like $dataclass; $object is any other registered class

The last five have everything that the instance holds, in slots and in its ``__dict__``. Names with a meaning of their
own: ``""`` is the built-in content of a class that derives from a container or a scalar (``class Cart(dict)``: the
dict as a *v*); pydantic's ``__pydantic_fields_set__``, and ``__pydantic_extra__`` and ``__pydantic_private__`` unless
null. A third item ``[name, ...]`` lists fields that have a default in the class and yet were not set. The tag says what
the class was when it was written; a class that has become another kind since is read all the same. Fields that the
class has got since take their default where that needs no code of the user's, and are else not set. Fields that the
class has lost are kept where instances have a ``__dict__``, and are an error otherwise.

Extensions bring tags of their own: ``$telegram`` and ``$bot`` are described in the persistence package.

Not kept: that two places held the same object (each gets its own copy), ``is_safe`` of a UUID, the sign and the payload
of a nan, hashes cached by attrs, the ``__orig_class__`` of typing's generics.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any, Final

FORMAT_VERSION: Final = 1
"""Number of the stored format; what a version wrote is read by every later one."""

MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**64 - 1

FACTORIES: Final[dict[str, Any]] = {
    factory.__name__: factory
    for factory in (
        bool,
        bytearray,
        bytes,
        complex,
        dict,
        float,
        frozenset,
        int,
        list,
        set,
        str,
        tuple,
        Counter,
        OrderedDict,
        defaultdict,
        deque,
    )
}
"""Factories that a defaultdict or a field's default may have; calling one runs built-in code only."""

ATTRIBUTE_TAGS: Final = frozenset(("$dataclass", "$attrs", "$pydantic", "$msgspec", "$object"))
CLASS_TAGS: Final = ATTRIBUTE_TAGS | {"$enum", "$flag", "$namedtuple"}
