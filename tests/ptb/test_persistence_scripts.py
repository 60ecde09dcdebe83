"""A script without an Application hands over objects of its own."""

from __future__ import annotations

from ptb_kvpersistence import KVPersistence


async def stored(tmp_path):
    reader = KVPersistence(tmp_path / "bot.db", bot="1")
    try:
        return await reader.get_user_data()
    finally:
        await reader.flush()


async def test_update_with_a_new_dict_and_a_conversation_of_the_same_user(tmp_path):
    kept = KVPersistence(tmp_path / "bot.db", bot="1")
    await kept.update_user_data(1, {"number": 1})
    await kept.flush()
    kept = KVPersistence(tmp_path / "bot.db", bot="1")
    assert await kept.get_user_data() == {1: {"number": 1}}
    kept.update_user_data(1, {"number": 2}).close()
    await kept.update_conversation("form", (1, 1), "NAME")
    await kept.flush()
    assert await stored(tmp_path) == {1: {"number": 2}}


async def test_refresh_then_update_with_a_new_dict_then_flush(tmp_path):
    kept = KVPersistence(tmp_path / "bot.db", bot="1")
    await kept.update_user_data(1, {"number": 1})
    live = {"number": 1}
    await kept.refresh_user_data(1, live)
    await kept.update_user_data(1, {"number": 2})
    await kept.flush()
    assert await stored(tmp_path) == {1: {"number": 2}}


async def test_what_is_handed_over_wins_also_when_it_is_what_is_stored(tmp_path):
    kept = KVPersistence(tmp_path / "bot.db", bot="1")
    await kept.update_user_data(1, {"number": 1})
    live = {"number": 1}
    await kept.refresh_user_data(1, live)
    live["number"] = 9
    await kept.update_user_data(1, {"number": 1})
    await kept.flush()
    assert await stored(tmp_path) == {1: {"number": 1}}
