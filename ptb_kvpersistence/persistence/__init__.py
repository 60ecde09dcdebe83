"""The floor that knows python-telegram-bot; nothing is imported here, so that each module is paid for when used."""
