"""Together with python-telegram-bot, in one process."""
