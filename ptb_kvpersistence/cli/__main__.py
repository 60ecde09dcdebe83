"""``python -m ptb_kvpersistence.cli`` is ``ptb-kv``."""

from __future__ import annotations

from ptb_kvpersistence.cli import main

if __name__ == "__main__":
    main()
