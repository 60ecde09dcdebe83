"""Texts that nobody of good will wrote: loading them opens no file, and gives an object or a DecodeError."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings

import pytest
import telegram
from hypothesis import given
from hypothesis import strategies as st
from telegram import TelegramObject
from telegram.error import TelegramError

from ptb_kvpersistence.codec.classes import shape_of
from ptb_kvpersistence.errors import DecodeError
from ptb_kvpersistence.persistence import telegram_form
from tests.ptb.telegram_checks import CLASSES, make_codec
from tests.ptb.telegram_samples import ALL, BY_NAME

opened: list[object] = []
is_listening: list[bool] = []


def listen(event, arguments):
    if is_listening and event == "open":
        opened.append(arguments[0])


sys.addaudithook(listen)


@CLASSES
def test_loading_opens_no_file(cls, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    codec = make_codec()
    data = dict.fromkeys(shape_of(cls).slots, str(secret))
    data |= {"type": "photo", "status": "creator", "source": "premium"}
    nested = {name: data for name in data if name[0] != "_"}
    for payload in (
        data,
        nested,
        {"state": {name: str(secret) for name in data if name[0] != "_" and name != "api_kwargs"}},
    ):
        is_listening.append(True)
        try:
            value = codec.decode(json.dumps({"$telegram": [cls.__name__, payload]}))
        except DecodeError:
            continue
        finally:
            is_listening.clear()
        assert not any(isinstance(getattr(value, name, None), telegram.InputFile) for name in data)
    assert not [path for path in opened if str(path) == str(secret)]


# --- hostile texts ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = sorted({name for cls in ALL for name in shape_of(cls).slots} | {"from", "status", "args"})
class_names = sorted(
    [*BY_NAME, *telegram_form.ERRORS, "DefaultValue", "constants.ChatType", "constants.ZERO_DATE", "Bot"]
)
payloads = st.dictionaries(st.sampled_from(names), json_values, max_size=6)


@given(name=st.sampled_from(class_names), data=payloads | payloads.map(lambda state: {"state": state}) | json_values)
def test_hostile_data_give_an_object_or_a_decode_error(name, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = make_codec().decode(json.dumps({"$telegram": [name, data]}))
        except DecodeError:
            return
        assert not isinstance(value, (TelegramObject, TelegramError)) or type(value).__name__ == name


@pytest.mark.parametrize(
    "text",
    [
        '{"$telegram":1}',
        '{"$telegram":[]}',
        '{"$telegram":["User"]}',
        '{"$telegram":[["User"],{}]}',
        '{"$telegram":["os.system",{}]}',
        '{"$telegram":["os:system",{"state":{}}]}',
        '{"$telegram":["Bot",{"token":"1:a"}]}',
        '{"$telegram":["ExtBot",{"state":{}}]}',
        '{"$telegram":["User",[]]}',
        '{"$telegram":["User",{"$tuple":[1]}]}',
        '{"$telegram":["User",{"$dict":[[1,2]]}]}',
        '{"$telegram":["User",{"state":{"_bot":1}}]}',
        '{"$telegram":["User",{"state":{"_frozen":1}}]}',
        '{"$telegram":["User",{"state":{"api_kwargs":[]}}]}',
        '{"$telegram":["User",{"state":{"_id_attrs":{}}}]}',
        '{"$telegram":["User",{"state":{"_id_attrs":[[]]}}]}',
        '{"$telegram":["User",{"state":{"id":{"$nope":1}}}]}',
        '{"$telegram":["InputMediaPhoto",{"media":"/etc/passwd"}]}',
        '{"$telegram":["RetryAfter",{"state":{"args":1}}]}',
        '{"$telegram":["constants.ChatType",[]]}',
        '{"$telegram":["Message",{"message_id":1,"date":1e300,"chat":{"id":1,"type":"x"}}]}',
        '{"$bot":1}',
        '{"$bot":["current"]}',
    ],
)
def test_hostile_texts(text):
    with pytest.raises(DecodeError):
        make_codec().decode(text)


@pytest.mark.parametrize("key", ["reply_to_message", "pinned_message"])
@pytest.mark.parametrize("inside", ["{}", "1", '{"poll":{"options":[{}]}}'])
def test_deeply_nested_data_end_soon(key, inside):
    data = f'{{"{key}":' * 200 + inside + "}" * 200
    started = time.monotonic()
    with contextlib.suppress(DecodeError):
        make_codec().decode(f'{{"$telegram":["Message",{data}]}}')
    assert time.monotonic() - started < 5
