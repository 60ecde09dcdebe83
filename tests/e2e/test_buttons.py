"""``examples/buttons.py``: buttons pressed after a restart still carry their objects."""

from __future__ import annotations

import pytest

TOKEN = "4712:buttons"


@pytest.fixture
def bot(server):
    return server.add_bot(TOKEN, first_name="Cafe")


@pytest.fixture
def process(run, bot):
    return run("buttons.py", {"BOT_TOKEN": TOKEN})


def keyboard_is_saved(rows, bot, message):
    """Wait until the keyboard of a message is on disk, by the id that its buttons begin with."""
    keyboard = message.buttons[0][0].data[:32]
    rows.wait(
        f"ptb:callback_data:{bot.id}", lambda stored: any(keyboard in f"{key} {value}" for key, value in stored.items())
    )


@pytest.mark.slow
def test_pressed_after_kills(process, bot, alice, rows):
    menu = alice.ask("/menu", 20)
    keyboard_is_saved(rows, bot, menu)
    process.restart()

    press = alice.press(menu.button("Tea"))
    assert press.answer(20)["text"] == "Tea added"
    cart = alice.receive()
    assert (cart.kind, cart.text) == ("edited", "Your cart: Tea. Total: 2.80")
    keyboard_is_saved(rows, bot, cart)

    # Pressed while nobody is there: it is answered by the next process.
    process.kill()
    press = alice.press(cart.button("Cake"))
    process.start()
    assert press.answer(20)["text"] == "Cake added"
    cart = alice.receive()
    assert cart.text == "Your cart: Tea, Cake. Total: 6.90"
    keyboard_is_saved(rows, bot, cart)

    # The button "Pay" carries the cart itself, a tuple of dataclasses with Decimals.
    process.restart()
    alice.press(cart.button("Pay"))
    assert alice.receive(20).text == "Paid 6.90 for 2 items."
    paid = cart.buttons[0][0].data[:32]
    rows.wait(
        f"ptb:callback_data:{bot.id}", lambda stored: not any(paid in f"{key} {value}" for key, value in stored.items())
    )


@pytest.mark.slow
def test_several_keyboards_come_back_each_with_its_own_objects(process, bot, alice, rows):
    menus = [alice.ask("/menu", 20) for _ in range(3)]
    alice.press(menus[0].button("Tea"))
    alice.receive()
    for menu in menus[1:]:
        keyboard_is_saved(rows, bot, menu)
    process.restart()
    for menu, product in zip(menus[1:], ("Coffee", "Cake"), strict=True):
        assert alice.press(menu.button(product)).answer(20)["text"] == f"{product} added"
    assert [alice.receive().text for _ in range(2)][-1] == "Your cart: Tea, Coffee, Cake. Total: 10.10"


def test_without_its_database_a_button_means_nothing(process, database, bot, alice, rows):
    """The control: the objects do come from the database."""
    menu = alice.ask("/menu", 20)
    keyboard_is_saved(rows, bot, menu)
    process.kill()
    database.wipe()
    process.start()
    answer = alice.press(menu.button("Tea")).answer(20)
    assert answer["text"] == "This button is too old, please send /menu again."
