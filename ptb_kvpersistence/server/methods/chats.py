"""Methods about chats and who is in them."""

from __future__ import annotations

from ptb_kvpersistence.server.failures import bad_request
from ptb_kvpersistence.server.methods.registry import Request, method
from ptb_kvpersistence.server.parameters import JSON
from ptb_kvpersistence.server.world import Room, World

_ACTIONS = frozenset(
    {
        "typing",
        "upload_photo",
        "record_video",
        "upload_video",
        "record_voice",
        "upload_voice",
        "upload_document",
        "choose_sticker",
        "find_location",
        "record_video_note",
        "upload_video_note",
    }
)
_ADMINISTRATOR_RIGHTS = (
    "can_manage_chat",
    "can_delete_messages",
    "can_manage_video_chats",
    "can_restrict_members",
    "can_promote_members",
    "can_change_info",
    "can_invite_users",
    "can_post_stories",
    "can_edit_stories",
    "can_delete_stories",
)


@method("getChat")
async def get_chat(request: Request) -> JSON:
    """Return everything about a chat."""
    room = request.room()
    return {
        **room.chat,
        "accent_color_id": 0,
        "max_reaction_count": 11,
        "accepted_gift_types": {
            "unlimited_gifts": True,
            "limited_gifts": True,
            "unique_gifts": True,
            "premium_subscription": True,
            "gifts_from_channels": True,
        },
    }


def member_json(world: World, room: Room, user_id: int) -> JSON:
    """Return a ChatMember.

    Raises:
        APIError: 400, for somebody who was never there.
    """
    status = room.members.get(user_id)
    user = world.users.get(user_id)
    if user is None:
        user = next((account.user for account in world.accounts.values() if account.id == user_id), None)
    if user is None:
        raise bad_request("member not found")
    status = status or "left"
    member: JSON = {"user": user, "status": status}
    if status == "creator":
        member["is_anonymous"] = False
    elif status == "administrator":
        member.update(dict.fromkeys(_ADMINISTRATOR_RIGHTS, True))
        member.update(is_anonymous=False, can_be_edited=False)
    elif status == "kicked":
        member["until_date"] = 0
    return member


@method("getChatMember")
async def get_chat_member(request: Request) -> JSON:
    """Return somebody's place in a chat."""
    room = request.room()
    user_id = request.parameters.integer("user_id")
    if user_id <= 0:
        raise bad_request("invalid user_id specified")
    return member_json(request.world, room, user_id)


@method("getChatMemberCount")
async def get_chat_member_count(request: Request) -> int:
    """Count those who are in a chat; a private chat counts the bot, too."""
    room = request.room()
    return sum(status not in ("left", "kicked") for status in room.members.values()) + room.is_private


@method("getChatAdministrators")
async def get_chat_administrators(request: Request) -> list[JSON]:
    """Return the administrators that are no bots."""
    room = request.room()
    if room.is_private:
        raise bad_request("there are no administrators in the private chat")
    return [
        member_json(request.world, room, user_id)
        for user_id, status in room.members.items()
        if status in ("creator", "administrator") and user_id in request.world.users
    ]


@method("leaveChat")
async def leave_chat(request: Request) -> bool:
    """Take the bot out of a group."""
    room = request.room()
    if room.is_private:
        raise bad_request("chat member status can't be changed in private chats")
    room.members[request.account.id] = "left"
    return True


@method("sendChatAction")
async def send_chat_action(request: Request) -> bool:
    """Check the action; nobody is shown it."""
    request.room(write=True)
    action = request.parameters.text("action")
    if not action:
        raise bad_request('parameter "action" is required')
    if action.lower() not in _ACTIONS:
        raise bad_request("wrong parameter action in request")
    return True
