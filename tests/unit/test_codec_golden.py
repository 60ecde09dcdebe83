"""What version 1 of the stored format wrote is read for ever: the golden file is only ever added to."""

from __future__ import annotations

import datetime
import decimal
import json
import pathlib
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque

import pytest
import pytz

from ptb_kvpersistence.codec import Codec
from ptb_kvpersistence.codec.decode import TAGS
from ptb_kvpersistence.codec.tags import FORMAT_VERSION
from tests import codec_models as models
from tests.exact import is_exact

GOLDEN = json.loads((pathlib.Path(__file__).parent.parent / "golden" / "codec_v1.json").read_text(encoding="utf-8"))


def with_attributes(value, **attributes):
    for name, item in attributes.items():
        setattr(value, name, item)
    return value


def without(value, name):
    delattr(value, name)
    return value


NAMES = {
    **vars(models),
    **{cls.__name__: cls for cls in (Counter, OrderedDict, defaultdict, deque)},
    **{module.__name__: module for module in (datetime, decimal, pathlib, pytz, uuid, zoneinfo)},
    "with_attributes": with_attributes,
    "without": without,
}


@pytest.mark.parametrize("index", range(len(GOLDEN["entries"])))
def test_old_texts_are_read(index):
    entry = GOLDEN["entries"][index]
    value = eval(entry["value"], dict(NAMES))
    codec = Codec(models.REGISTERED)
    assert is_exact(codec.decode(entry["text"]), value), entry
    assert is_exact(codec.decode(codec.encode(value)), value), entry


def test_the_golden_file_has_every_tag_of_the_format():
    assert FORMAT_VERSION == GOLDEN["format"] == 1
    text = "".join(entry["text"] for entry in GOLDEN["entries"])
    assert [tag for tag in sorted(TAGS) if f'"{tag}"' not in text] == []
