"""Classes that a bot registers with ``types=`` reach every part of the codec."""

from __future__ import annotations

from telegram import User

from ptb_kvpersistence import KVPersistence


class Member(User):
    """A user's own subclass of a Telegram class."""

    __slots__ = ()


class Plain:
    def __init__(self, number):
        self.number = number


async def test_registered_classes_of_every_kind_survive(tmp_path):
    first = KVPersistence(tmp_path / "bot.db", types=(kind for kind in (Member, Plain)))
    await first.update_user_data(42, {"member": Member(42, "Ann", is_bot=False), "plain": Plain(5)})
    await first.flush()

    second = KVPersistence(tmp_path / "bot.db", types=[Member, Plain])
    data = (await second.get_user_data())[42]
    assert type(data["member"]) is Member
    assert data["member"].first_name == "Ann"
    assert (type(data["plain"]), data["plain"].number) == (Plain, 5)
    await second.flush()
