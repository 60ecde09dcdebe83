"""Write an object of each class of the installed python-telegram-bot: ``python -m tests.ptb.telegram_golden.write``.

The files beside this one were written so; what is in them must stay readable.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import telegram

from ptb_kvpersistence.codec.core import Codec
from ptb_kvpersistence.persistence.telegram_codec import TelegramExtension
from tests.ptb.telegram_samples import ALL, Samples


def write() -> None:
    """Write the file for the installed version."""
    codec = Codec(extensions=[TelegramExtension(lambda: None)])
    warnings.simplefilter("ignore")
    classes = [cls for cls in ALL if not cls.__name__.startswith("_")]
    lines = [codec.encode(Samples(f"golden {cls.__name__}", optional=0.35).instance(cls)) for cls in classes]
    Path(__file__).with_name(f"{telegram.__version__}.jsonl").write_bytes(b"\n".join([*lines, b""]))


if __name__ == "__main__":
    write()
