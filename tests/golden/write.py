"""Write the golden database of the current format: ``python -m tests.golden.write PATH``. For a new format only."""

from __future__ import annotations

import asyncio
import sys

from ptb_kvpersistence import KVPersistence
from tests.golden import content


async def write(path: str) -> None:
    """Write everything as PTB would have it written."""
    persistence = KVPersistence(path, bot=content.BOT)
    for user_id, data in content.USER_DATA.items():
        await persistence.update_user_data(user_id, data)
    for chat_id, data in content.CHAT_DATA.items():
        await persistence.update_chat_data(chat_id, data)
    await persistence.update_bot_data(content.BOT_DATA)
    for name, states in content.CONVERSATIONS.items():
        for key, state in states.items():
            await persistence.update_conversation(name, key, state)
    await persistence.update_callback_data(content.CALLBACK_DATA)
    await persistence.update_user_data(99, {"dropped": True})
    await persistence.drop_user_data(99)
    await persistence.store.set_many(content.ROOT)
    await persistence.flush()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1]))
