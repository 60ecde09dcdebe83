"""The local Bot API server, asked by a real PTB bot over HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from urllib.request import urlopen

import aiohttp
import pytest
from aiohttp import web
from telegram import (
    Bot,
    BotCommand,
    BotCommandScopeAllPrivateChats,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    MessageEntity,
    ReplyKeyboardMarkup,
    ReplyParameters,
    Update,
)
from telegram.constants import ChatMemberStatus, ParseMode
from telegram.error import BadRequest, Conflict, EndPointNotFound, Forbidden, InvalidToken, RetryAfter, TelegramError
from telegram.request import HTTPXRequest

from ptb_kvpersistence.server import BotAPIServer, running_server
from ptb_kvpersistence.server.updates import FIRST_UPDATE_ID
from ptb_kvpersistence.server.waiting import Signal
from ptb_kvpersistence.server.webhook import SECRET_HEADER

TOKEN = "4711:ABC-def_123"


@pytest.fixture
async def server():
    async with BotAPIServer() as running:
        yield running


@pytest.fixture
def account(server):
    return server.add_bot(TOKEN, first_name="Shop", username="shop_bot")


@pytest.fixture
def alice(server):
    return server.add_user("Alice", username="alice")


@pytest.fixture
async def bot(server, account):
    async with make_bot(server, account.token) as ready:
        yield ready


def make_bot(server, token):
    # PTB's own requests, with room for the few long polls that the tests leave waiting.
    return Bot(
        token,
        base_url=server.base_url,
        base_file_url=server.base_file_url,
        request=HTTPXRequest(connection_pool_size=8),
        get_updates_request=HTTPXRequest(connection_pool_size=4),
    )


def keyboard(**buttons):
    return InlineKeyboardMarkup([[InlineKeyboardButton(text, callback_data=data)] for text, data in buttons.items()])


async def raw(server, path, method="POST", **request):
    async with aiohttp.ClientSession() as session, session.request(method, server.url + path, **request) as response:
        return response.status, await response.json()


class TestTokens:
    async def test_get_me(self, bot, account):
        me = await bot.get_me()
        assert (me.id, me.is_bot, me.first_name, me.username) == (4711, True, "Shop", "shop_bot")
        assert me.can_join_groups is True

    async def test_a_token_of_no_bot_is_401_a_malformed_one_404(self, server, account):
        assert await raw(server, "/bot4711:wrong/getMe") == (
            401,
            {"ok": False, "error_code": 401, "description": "Unauthorized"},
        )
        not_found = (404, {"ok": False, "error_code": 404, "description": "Not Found"})
        assert await raw(server, "/botnonsense/getMe") == not_found
        assert await raw(server, f"/bot{TOKEN}/getNothing") == not_found
        assert await raw(server, "/") == not_found
        async with HTTPXRequest() as request:
            with pytest.raises(InvalidToken):
                await Bot("4711:wrong", base_url=server.base_url, request=request).get_me()

    async def test_ptb_recognises_an_unknown_method(self, bot):
        with pytest.raises(EndPointNotFound):
            await bot.do_api_request("getNothing")

    async def test_several_bots_are_apart(self, server, account, bot, alice):
        other = server.add_bot("4712:ABC")
        alice.send("for one", to=account)
        async with make_bot(server, other.token) as second:
            assert await second.get_updates(timeout=0) == ()
            with pytest.raises(BadRequest, match="Chat not found"):
                await second.send_message(alice.id, "you do not know me")
        assert [update.message.text for update in await bot.get_updates(timeout=0)] == ["for one"]

    @pytest.mark.parametrize("token", ["ABC", "0:ABC", "12:a b", "12:", "x:ABC"])
    def test_a_malformed_token_is_not_registered(self, token):
        with pytest.raises(ValueError, match="123456:ABC-def"):
            BotAPIServer().add_bot(token)

    def test_an_id_belongs_to_one_bot(self):
        server = BotAPIServer()
        server.add_bot("5:AAA")
        with pytest.raises(ValueError, match="id 5"):
            server.add_bot("5:BBB")

    async def test_every_token_is_taken_when_asked_for(self):
        async with BotAPIServer(accepts_any_token=True) as server:
            status, answer = await raw(server, "/bot99:whatever/getMe")
            assert (status, answer["result"]["id"]) == (200, 99)
            assert (await raw(server, "/bot99:other/getMe"))[0] == 401


class TestParameters:
    """The same call in each of the ways the real server takes it."""

    @pytest.mark.parametrize("way", ["query", "form", "json", "multipart"])
    async def test_ways(self, server, account, alice, way):
        alice.send("/start")
        values = {"chat_id": str(alice.id), "text": "täg ✓"}
        path = f"/bot{TOKEN}/SENDmessage"
        if way == "query":
            status, answer = await raw(server, path, "GET", params=values)
        elif way == "form":
            status, answer = await raw(server, path, data=values)
        elif way == "json":
            status, answer = await raw(server, path, json={**values, "chat_id": alice.id, "reply_markup": None})
        else:
            form = aiohttp.FormData()
            for name, value in values.items():
                form.add_field(name, value, content_type="text/plain")  # which makes it multipart
            status, answer = await raw(server, path, data=form)
        assert (status, answer["ok"]) == (200, True)
        assert answer["result"]["text"] == "täg ✓"
        assert (await alice.receive()).text == "täg ✓"

    async def test_unreadable_json(self, server, account):
        headers = {"Content-Type": "application/json"}
        for body in ("{", "[1]"):
            status, answer = await raw(server, f"/bot{TOKEN}/getMe", data=body, headers=headers)
            assert (status, answer["ok"]) == (400, False)
            assert answer["description"].startswith("Bad Request: can't parse JSON object")


class TestUpdates:
    async def test_ids_grow_and_an_offset_confirms(self, bot, account, alice):
        for text in ("one", "two", "three"):
            alice.send(text)
        first = await bot.get_updates(limit=2, timeout=0)
        assert [update.update_id for update in first] == [FIRST_UPDATE_ID, FIRST_UPDATE_ID + 1]
        assert [update.message.text for update in first] == ["one", "two"]
        # Unconfirmed ones come again, to whoever asks: a bot that was killed gets them after its restart.
        assert [update.message.text for update in await bot.get_updates(timeout=0)] == ["one", "two", "three"]
        assert [update.message.text for update in await bot.get_updates(offset=FIRST_UPDATE_ID + 2, timeout=0)] == [
            "three"
        ]
        assert account.pending_updates == 1
        assert [update.message.text for update in await bot.get_updates(timeout=0)] == ["three"]

    async def test_a_negative_offset_counts_from_the_end(self, bot, account, alice):
        for text in ("one", "two", "three"):
            alice.send(text)
        assert [update.message.text for update in await bot.get_updates(offset=-1, timeout=0)] == ["three"]
        assert account.pending_updates == 1

    async def test_an_offset_of_another_queue_confirms_nothing(self, bot, account, alice):
        alice.send("one")
        assert len(await bot.get_updates(offset=FIRST_UPDATE_ID + 10**6, timeout=0)) == 1
        assert account.pending_updates == 1

    async def test_long_polling_waits_for_an_update(self, bot, account, alice):
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(bot.get_updates(timeout=20))
        await account.wait_until_idle()
        start = loop.time()
        alice.send("now")
        assert [update.message.text for update in await waiting] == ["now"]
        assert loop.time() - start < 5

    async def test_long_polling_ends_with_nothing(self, bot):
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert await bot.get_updates(timeout=1) == ()
        assert 0.9 < loop.time() - start < 5

    async def test_of_two_pollers_the_earlier_one_gets_the_conflict(self, bot, account, alice):
        earlier = asyncio.create_task(bot.get_updates(timeout=20))
        await account.wait_until_idle()
        later = asyncio.create_task(bot.get_updates(timeout=20))
        with pytest.raises(Conflict, match="terminated by other getUpdates request"):
            await earlier
        alice.send("to the later one")
        assert len(await later) == 1

    async def test_repeated_conflicts_are_answered_slowly(self, bot, account):
        account.account.updates.conflict_delay = 0.3
        loop = asyncio.get_running_loop()
        polls = []
        for _ in range(3):
            polls.append(asyncio.create_task(bot.get_updates(timeout=5)))
            await asyncio.sleep(0.05)
        start = loop.time()
        for poll in polls[:2]:
            with pytest.raises(Conflict):
                await poll
        assert loop.time() - start > 0.1
        polls[2].cancel()

    async def test_allowed_updates_are_kept_until_changed(self, bot, account, alice):
        await bot.get_updates(timeout=0, allowed_updates=["callback_query"])
        message = alice.send("unwanted")
        assert account.pending_updates == 0
        await bot.get_updates(timeout=0)
        alice.edit(message, "still unwanted")
        assert account.pending_updates == 0
        await bot.get_updates(timeout=0, allowed_updates=[])
        alice.edit(message, "wanted")
        (update,) = await bot.get_updates(timeout=0)
        assert update.edited_message.text == "wanted"
        assert update.edited_message.edit_date is not None


class TestWebhook:
    @pytest.fixture
    async def receiver(self):
        """A webhook whose answers the test sets; what came is in `received`."""
        received, answers = asyncio.Queue(), []

        async def receive(request):
            status, body = answers.pop(0) if answers else (200, None)
            await received.put((request.headers.get(SECRET_HEADER), await request.json(), status))
            return web.json_response(body, status=status)

        app = web.Application()
        app.router.add_post("/hook", receive)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        yield url, received, answers
        await runner.cleanup()

    async def test_updates_are_posted_with_the_secret(self, bot, account, alice, receiver):
        url, received, _ = receiver
        alice.send("before")
        assert await bot.set_webhook(url, secret_token="s3-cret_") is True
        alice.send("after")
        for text in ("before", "after"):
            secret, body, _ = await asyncio.wait_for(received.get(), 5)
            assert secret == "s3-cret_"
            assert Update.de_json(body, bot).message.text == text
        await account_confirmed(account)
        info = await bot.get_webhook_info()
        assert (info.url, info.pending_update_count, info.last_error_date) == (url, 0, None)

    async def test_a_refused_update_is_sent_again(self, bot, account, alice, receiver):
        url, received, answers = receiver
        answers[:] = [(500, None), (503, None)]
        await bot.set_webhook(url)
        alice.send("hello")
        got = [await asyncio.wait_for(received.get(), 5) for _ in range(3)]
        assert [status for _, _, status in got] == [500, 503, 200]
        assert len({body["update_id"] for _, body, _ in got}) == 1
        await account_confirmed(account)
        info = await bot.get_webhook_info()
        assert info.last_error_message == "Wrong response from the webhook: 503 Service Unavailable"
        assert info.last_error_date is not None

    async def test_nobody_there(self, bot, account, alice, unused_tcp_port):
        await bot.set_webhook(f"http://127.0.0.1:{unused_tcp_port}/")
        alice.send("hello")
        for _ in range(100):
            info = await bot.get_webhook_info()
            if info.last_error_message:
                break
            await asyncio.sleep(0.02)
        assert info.last_error_message == "Connection refused"
        assert info.pending_update_count == 1
        assert await bot.delete_webhook() is True
        assert len(await bot.get_updates(timeout=0)) == 1

    async def test_the_answer_may_be_a_call(self, bot, alice, receiver):
        url, _, answers = receiver
        answers.append((200, {"method": "sendMessage", "chat_id": alice.id, "text": "from the webhook"}))
        await bot.set_webhook(url)
        alice.send("hello")
        assert (await alice.receive()).text == "from the webhook"

    async def test_polling_and_a_webhook_exclude_each_other(self, bot, account, receiver):
        url, _, _ = receiver
        waiting = asyncio.create_task(bot.get_updates(timeout=20))
        await account.wait_until_idle()
        await bot.set_webhook(url)
        with pytest.raises(Conflict, match="terminated by setWebhook"):
            await waiting
        account.account.updates.conflict_delay = 0.1
        with pytest.raises(Conflict, match="while webhook is active"):
            await bot.get_updates(timeout=0)

    async def test_dropping_what_is_pending(self, bot, account, alice, receiver):
        url, received, _ = receiver
        alice.send("old")
        await bot.set_webhook(url, drop_pending_updates=True)
        alice.send("new")
        _, body, _ = await asyncio.wait_for(received.get(), 5)
        assert body["message"]["text"] == "new"
        await bot.delete_webhook()
        alice.send("old again")
        await bot.delete_webhook(drop_pending_updates=True)
        assert await bot.get_updates(timeout=0) == ()

    @pytest.mark.parametrize(
        ("url", "secret", "reason"),
        [
            ("http://127.0.0.1:1/", "not allowed!", "unallowed characters"),
            ("http://127.0.0.1:1/", "x" * 257, "too long"),
            ("ftp://127.0.0.1/", None, "[Ii]nvalid webhook url"),
            ("http://[::1/", None, "[Ii]nvalid webhook url"),
            ("https://example.com/", None, "this machine only"),
        ],
        ids=["characters", "length", "scheme", "nonsense", "elsewhere"],
    )
    async def test_refused(self, bot, url, secret, reason):
        with pytest.raises(BadRequest, match=f"(?i){reason}"):
            await bot.set_webhook(url, secret_token=secret)


async def account_confirmed(account):
    """Wait until nothing is pending; with a webhook there is no poll to wait for."""
    world = account._world
    assert await world.changed.until(lambda: True if not account.pending_updates else None, 5)


class TestSending:
    async def test_text(self, bot, account, alice):
        alice.send("/start@shop_bot see @somebody 🙂 #tag https://example.com/a?b.")
        (update,) = await bot.get_updates(timeout=0)
        assert update.effective_user.username == "alice"
        assert update.effective_chat.type == "private"
        entities = update.message.parse_entities()
        assert list(entities.values()) == ["/start@shop_bot", "@somebody", "#tag", "https://example.com/a?b"]
        assert [entity.type for entity in entities] == [
            MessageEntity.BOT_COMMAND,
            MessageEntity.MENTION,
            MessageEntity.HASHTAG,
            MessageEntity.URL,
        ]
        sent = await bot.send_message(alice.id, "  hello ", reply_parameters=ReplyParameters(update.message.message_id))
        assert (sent.text, sent.from_user.id, sent.chat.id) == ("hello", bot.id, alice.id)
        assert sent.reply_to_message.text == update.message.text
        seen = await alice.receive()
        assert (seen.kind, seen.text, seen.id) == ("sent", "hello", sent.message_id)
        call = await account.wait_for_call("sendMessage")
        assert (call.ok, call.parameters["text"], call.result["text"]) == (True, "  hello ", "hello")

    async def test_keyboards(self, bot, alice):
        alice.send("/start")
        sent = await bot.send_message(alice.id, "choose", reply_markup=keyboard(Yes="y", No="n"))
        assert sent.reply_markup == keyboard(Yes="y", No="n")
        seen = await alice.receive()
        assert [[button.text for button in row] for row in seen.buttons] == [["Yes"], ["No"]]
        assert seen.button("No").data == "n"
        with pytest.raises(LookupError, match="Maybe"):
            seen.button("Maybe")
        sent = await bot.send_message(alice.id, "type", reply_markup=ReplyKeyboardMarkup([["a", "b"], ["c"]]))
        assert sent.reply_markup is None
        assert (await alice.receive()).keyboard == (("a", "b"), ("c",))

    @pytest.mark.parametrize(
        ("mode", "text"),
        [
            (ParseMode.HTML, '<b>bold</b> <i>it<u>al</u>ic</i> &lt; <a href="http://x.y">link</a>'),
            (ParseMode.MARKDOWN_V2, r"*bold* _it__al__ic_ < [link](http://x.y)"),
        ],
    )
    async def test_parse_modes(self, bot, alice, mode, text):
        alice.send("/start")
        sent = await bot.send_message(alice.id, text, parse_mode=mode)
        assert sent.text == "bold italic < link"
        assert [(entity.type, value) for entity, value in sent.parse_entities().items()] == [
            ("bold", "bold"),
            ("italic", "italic"),
            ("underline", "al"),
            ("text_link", "link"),
        ]

    async def test_old_markdown(self, bot, alice):
        alice.send("/start")
        sent = await bot.send_message(alice.id, "*bold* 1. `a_b` [x](http://y.z)", parse_mode=ParseMode.MARKDOWN)
        assert sent.text == "bold 1. a_b x"
        assert [entity.type for entity in sent.entities] == ["bold", "code", "text_link"]

    @pytest.mark.parametrize(
        ("parameters", "reason"),
        [
            ({"text": " "}, "Message text is empty"),
            ({"text": "x" * 4097}, "Message is too long"),
            ({"chat_id": 999}, "Chat not found"),
            ({"chat_id": ""}, "Chat_id is empty"),
            ({"parse_mode": "RTF"}, "Unsupported parse_mode"),
            ({"text": "<b>x", "parse_mode": "HTML"}, "Can't find end tag"),
            ({"text": "<x>x</x>", "parse_mode": "HTML"}, "Unsupported start tag"),
            ({"text": "1.5", "parse_mode": "MarkdownV2"}, "reserved"),
            ({"text": "*1", "parse_mode": "Markdown"}, "Can't find end of the entity"),
            ({"reply_markup": keyboard(Long="x" * 65)}, "Button_data_invalid"),
            ({"reply_parameters": ReplyParameters(77)}, "Message to be replied not found"),
            ({"api_kwargs": {"reply_markup": "{"}}, "Can't parse reply keyboard markup JSON object"),
            ({"api_kwargs": {"reply_markup": {"inline_keyboard": [1]}}}, "Array of Arrays"),
            ({"api_kwargs": {"reply_markup": {"inline_keyboard": [[{"text": "x"}]]}}}, "unallowed"),
        ],
        ids=str,
    )
    async def test_refused(self, bot, alice, parameters, reason):
        alice.send("/start")
        with pytest.raises(BadRequest, match=f"(?i){reason}"):
            await bot.send_message(**{"chat_id": alice.id, "text": "hello", **parameters})
        assert alice.history() == []

    async def test_a_user_who_blocked_the_bot(self, bot, account, alice):
        alice.send("hello")
        alice.block(account)
        with pytest.raises(Forbidden, match="blocked by the user"):
            await bot.send_message(alice.id, "hello?")
        alice.block(account, blocked=False)
        await bot.send_message(alice.id, "hello!")
        changes = [update.my_chat_member for update in await bot.get_updates(timeout=0)][1:]
        assert [(change.old_chat_member.status, change.new_chat_member.status) for change in changes] == [
            (ChatMemberStatus.MEMBER, ChatMemberStatus.BANNED),
            (ChatMemberStatus.BANNED, ChatMemberStatus.MEMBER),
        ]

    async def test_forwarding_and_copying(self, bot, alice):
        sent = alice.send("pass it on")
        forwarded = await bot.forward_message(alice.id, alice.id, sent.id)
        assert forwarded.forward_origin.sender_user.id == alice.id
        copied = await bot.copy_message(alice.id, alice.id, sent.id)
        assert copied.message_id == forwarded.message_id + 1
        assert [seen.text for seen in alice.history()] == ["pass it on", "pass it on"]
        with pytest.raises(BadRequest, match="Message to forward not found"):
            await bot.forward_message(alice.id, alice.id, 99)

    async def test_files(self, bot, alice):
        alice.send("/start")
        sent = await bot.send_document(
            alice.id, b"some bytes", filename="a.txt", caption="<b>Look</b>", parse_mode="HTML"
        )
        assert (sent.document.file_name, sent.document.file_size, sent.caption) == ("a.txt", 10, "Look")
        file = await bot.get_file(sent.document.file_id)
        assert bytes(await file.download_as_bytearray()) == b"some bytes"
        again = await bot.send_document(alice.id, sent.document.file_id)
        assert again.document.file_unique_id == sent.document.file_unique_id
        photo = await bot.send_photo(alice.id, b"\x89PNG", caption="a photo")
        assert photo.photo[-1].file_size == 4
        edited = await bot.edit_message_caption(alice.id, photo.message_id, caption="another")
        assert edited.caption == "another"
        with pytest.raises(BadRequest, match="Wrong file identifier"):
            await bot.send_photo(alice.id, "unknown")
        with pytest.raises(BadRequest, match="no text in the message"):
            await bot.edit_message_text("text", alice.id, photo.message_id)


class TestEditing:
    async def test_text_and_keyboard(self, bot, alice):
        alice.send("/start")
        sent = await bot.send_message(alice.id, "one", reply_markup=keyboard(Go="go"))
        await alice.receive()
        edited = await bot.edit_message_text("two", alice.id, sent.message_id, reply_markup=keyboard(Go="gone"))
        assert (edited.text, edited.reply_markup) == ("two", keyboard(Go="gone"))
        assert edited.edit_date is not None
        seen = await alice.receive()
        assert (seen.kind, seen.id, seen.text) == ("edited", sent.message_id, "two")
        # An inline keyboard that is not given again goes away.
        assert (await bot.edit_message_text("three", alice.id, sent.message_id)).reply_markup is None
        edited = await bot.edit_message_reply_markup(alice.id, sent.message_id, reply_markup=keyboard(Stop="s"))
        assert (edited.text, edited.reply_markup) == ("three", keyboard(Stop="s"))

    async def test_refused(self, bot, alice):
        theirs = alice.send("mine")
        sent = await bot.send_message(alice.id, "one")
        with pytest.raises(BadRequest, match="Message is not modified"):
            await bot.edit_message_text("one", alice.id, sent.message_id)
        with pytest.raises(BadRequest, match="Message to edit not found"):
            await bot.edit_message_text("two", alice.id, 999)
        with pytest.raises(BadRequest, match="Message can't be edited"):
            await bot.edit_message_text("two", alice.id, theirs.id)
        with pytest.raises(BadRequest, match="no caption"):
            await bot.edit_message_caption(alice.id, sent.message_id, caption="two")

    async def test_deleting(self, bot, alice):
        theirs = alice.send("mine")
        sent = await bot.send_message(alice.id, "one")
        assert await bot.delete_message(alice.id, theirs.id) is True
        assert await bot.delete_messages(alice.id, [sent.message_id, 999]) is True
        with pytest.raises(BadRequest, match="Message to delete not found"):
            await bot.delete_message(alice.id, sent.message_id)
        assert [seen.kind for seen in alice.history()] == ["sent", "deleted", "deleted"]


class TestButtons:
    async def test_pressing(self, bot, alice):
        alice.send("/start")
        sent = await bot.send_message(alice.id, "choose", reply_markup=keyboard(Yes="y"))
        press = alice.press((await alice.receive()).button("Yes"))
        query = (await bot.get_updates(timeout=0))[-1].callback_query
        assert (query.data, query.from_user.id, query.message.text) == ("y", alice.id, "choose")
        assert query.message.reply_markup == sent.reply_markup
        assert await query.answer("Thanks", show_alert=True) is True
        assert await press.answer() == {"text": "Thanks", "show_alert": True, "url": ""}
        with pytest.raises(BadRequest, match="Query is too old"):
            await query.answer()

    async def test_only_what_is_there_can_be_pressed(self, bot, alice):
        alice.send("/start")
        sent = await bot.send_message(alice.id, "choose", reply_markup=keyboard(Yes="y"))
        button = (await alice.receive()).button("Yes")
        await bot.edit_message_reply_markup(alice.id, sent.message_id, reply_markup=keyboard(No="n"))
        with pytest.raises(ValueError, match="not there any more"):
            alice.press(button)
        link = InlineKeyboardMarkup([[InlineKeyboardButton("Site", url="https://example.com")]])
        await bot.send_message(alice.id, "look", reply_markup=link)
        with pytest.raises(ValueError, match="sends nothing"):
            alice.press(alice.history()[-1].button("Site"))

    async def test_an_unanswered_press_times_out(self, bot, alice):
        alice.send("/start")
        await bot.send_message(alice.id, "choose", reply_markup=keyboard(Yes="y"))
        press = alice.press((await alice.receive()).button("Yes"))
        with pytest.raises(TimeoutError, match="not answered"):
            await press.answer(timeout=0.1)

    async def test_what_users_cannot_do_can_be_queued(self, bot, account, alice):
        account.push_update("inline_query", {"id": "1", "from": alice.data, "query": "cats", "offset": ""})
        (update,) = await bot.get_updates(timeout=0)
        assert (update.inline_query.query, update.inline_query.from_user.id) == ("cats", alice.id)


class TestChats:
    async def test_groups(self, server, bot, account, alice):
        bob = server.add_user("Bob")
        group = server.add_group("Team", [alice, bob], [account])
        bob.send("hello all", to=group)
        (update,) = await bot.get_updates(timeout=0)
        assert (update.effective_chat.id, update.effective_chat.type) == (group.id, "group")
        assert update.effective_user.first_name == "Bob"
        await bot.send_message(group.id, "hello Bob")
        for user in (alice, bob):
            assert (await user.receive(sender=group)).text == "hello Bob"
        statuses = [(await bot.get_chat_member(group.id, user.id)).status for user in (alice, bob, account)]
        assert statuses == ["creator", "member", "member"]
        group.set_status(bob, "kicked")
        group.set_status(account, "administrator")
        assert (await bot.get_chat_member(group.id, bob.id)).status == "kicked"
        assert (await bot.get_chat_member(group.id, account.id)).can_delete_messages is True
        assert await bot.get_chat_member_count(group.id) == 2
        assert [admin.user.id for admin in await bot.get_chat_administrators(group.id)] == [alice.id]
        with pytest.raises(BadRequest, match="Member not found"):
            await bot.get_chat_member(group.id, 424242)
        with pytest.raises(ValueError, match="not in the group"):
            server.add_user("Eve").send("hello", to=group)
        assert await bot.leave_chat(group.id) is True
        with pytest.raises(Forbidden, match="not a member"):
            await bot.send_message(group.id, "gone")

    async def test_chat(self, server, bot, account, alice):
        alice.send("/start")
        chat = await bot.get_chat(alice.id)
        assert (chat.id, chat.type, chat.username) == (alice.id, "private", "alice")
        assert await bot.send_chat_action(alice.id, "typing") is True
        with pytest.raises(BadRequest, match="Wrong parameter action"):
            await bot.send_chat_action(alice.id, "dancing")

    async def test_commands(self, bot):
        scope = BotCommandScopeAllPrivateChats()
        commands = [BotCommand("start", "Begin"), BotCommand("help", "Say more")]
        assert await bot.set_my_commands(commands, scope=scope) is True
        assert await bot.get_my_commands(scope=scope) == tuple(commands)
        assert await bot.get_my_commands() == ()
        assert await bot.delete_my_commands(scope=scope) is True
        assert await bot.get_my_commands(scope=scope) == ()

    async def test_logging_out_and_closing(self, bot):
        assert await bot.log_out() is True
        assert await bot.close() is True


class TestFaults:
    async def test_flood_control(self, server, account, bot, alice, monkeypatch):
        monkeypatch.setenv("PTB_TIMEDELTA", "1")  # newer PTB warns without it
        alice.send("/start")
        server.fail_next("sendMessage", retry_after=7)
        with pytest.raises(RetryAfter, match=r"Retry in (0:00:0)?7"):
            await bot.send_message(alice.id, "too fast")
        server.fail_next("getMe", retry_after=7)
        async with aiohttp.ClientSession() as session, session.get(f"{server.base_url}{TOKEN}/getMe") as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        await bot.send_message(alice.id, "again")
        assert [seen.text for seen in alice.history()] == ["again"]

    async def test_other_errors_for_one_bot(self, server, bot, account, alice):
        server.fail_next(code=502, description="Bad Gateway", times=2, bot=server.add_bot("1:ABC"))
        await bot.get_me()
        server.fail_next("getMe", code=502, description="Bad Gateway", times=2, bot=account)
        for _ in range(2):
            with pytest.raises(TelegramError, match="Bad Gateway"):
                await bot.get_me()
        await bot.get_me()
        assert [call.ok for call in account.calls if call.method == "getMe"][-4:] == [True, False, False, True]


class TestWaiting:
    async def test_a_change_right_after_the_look_is_not_missed(self):
        """The change comes in the very step in which the look found nothing."""
        signal, found = Signal(), []

        def look():
            if not found:
                asyncio.get_running_loop().call_soon(change)
                return None
            return found[0]

        def change():
            found.append("it")
            signal.notify()

        assert await asyncio.wait_for(signal.until(look, timeout=60), 2) == "it"


class TestUsers:
    async def test_receiving_times_out(self, account, alice):
        with pytest.raises(TimeoutError, match="no message for Alice"):
            await alice.receive(timeout=0.05)

    def test_to_whom_must_be_clear(self):
        server = BotAPIServer()
        alice = server.add_user()
        with pytest.raises(ValueError, match="say to whom"):
            alice.send("hello?")

    async def test_starting_twice(self, server):
        with pytest.raises(RuntimeError, match="before"):
            await server.start()


class TestBlocking:
    def test_a_chat_from_a_script(self):
        with running_server() as server:
            account, alice = server.add_bot(TOKEN), server.add_user("Alice")

            async def echo():
                async with make_bot(server, account.token) as bot:
                    (update,) = await bot.get_updates(timeout=5)
                    await bot.send_message(update.effective_chat.id, "echo", reply_markup=keyboard(More="m"))
                    (update,) = await bot.get_updates(offset=update.update_id + 1, timeout=5)
                    await update.callback_query.answer("more")

            alice.send("hello")
            loop = asyncio.new_event_loop()
            task = loop.create_task(echo())
            try:
                loop.run_until_complete(asyncio.sleep(0))
                seen = loop.run_until_complete(loop.run_in_executor(None, alice.receive))
                press = alice.press(seen.button("More"))
                loop.run_until_complete(task)
                assert press.answer()["text"] == "more"
                assert [call.method for call in account.calls][-2:] == ["sendMessage", "answerCallbackQuery"]
            finally:
                task.cancel()
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()

    def test_on_its_own(self):
        command = [sys.executable, "-m", "ptb_kvpersistence.server", TOKEN]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            url = process.stdout.readline().strip()
            with urlopen(f"{url}/bot{TOKEN}/getMe", timeout=20) as response:
                assert json.load(response)["result"]["id"] == 4711
        finally:
            process.kill()
            process.communicate()
