"""The codec itself: the fast path, else the long one, and the errors that a user sees.

The stored format is described in :mod:`ptb_kvpersistence.codec.tags`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from ptb_kvpersistence.codec.decode import TAGS, Decoding
from ptb_kvpersistence.codec.encode import Encoding, Handler
from ptb_kvpersistence.codec.extension import Extension
from ptb_kvpersistence.codec.place import Fault
from ptb_kvpersistence.codec.plain import is_plain
from ptb_kvpersistence.codec.registry import Registry
from ptb_kvpersistence.codec.tags import CLASS_TAGS
from ptb_kvpersistence.codec.text import OPTIONS, Tree, dumps, is_shallow, loads
from ptb_kvpersistence.errors import ConfigurationError, DecodeError, EncodeError

_ATTEMPTS: Final = 5


class Codec:
    """Turns Python values into JSON text and back.

    JSON's own types are stored as plain JSON, everything else under tags. What is encoded comes back equal, of the
    same types and in the same order; whatever would not is refused. Decoding imports nothing and runs no class's code.

    Args:
        types: Classes whose instances may be stored. Enum, NamedTuple, dataclass and attrs classes need not be among
            them, unless they have ``__del__`` or cannot be found by their name.
        extensions: Store the classes of a library under tags of their own.

    Raises:
        ConfigurationError: Something in ``types`` is no class, or a tag is taken.
    """

    def __init__(self, types: Iterable[type] = (), extensions: Sequence[Extension] = ()) -> None:
        self._registry = Registry(types)
        self._extensions = tuple(extensions)
        by_tag = {extension.tag: extension for extension in self._extensions}
        taken = [tag for tag in by_tag if tag in TAGS or tag[:1] != "$"]
        if taken or len(by_tag) < len(self._extensions):
            raise ConfigurationError(f"an extension's tag begins with $ and is its own, not {taken or list(by_tag)}")
        self._handlers: dict[type, Handler] = {}
        self._decoding = Decoding(self._registry, by_tag)

    def register(self, cls: type) -> None:
        """Allow the instances of a class.

        Args:
            cls: The class; subclasses have to be registered themselves. It is stored by module and qualified name.

        Raises:
            ConfigurationError: It is no class.
        """
        self._registry.register(cls)
        self._handlers.clear()

    def encode(self, value: object, place: object = "value") -> bytes:
        """Write a value as JSON text.

        Args:
            value: The value; it is not changed. Two places that hold the same object get a copy each.
            place: What to call the value in an error, for example ``user_data[42]``; made a str only then.

        Returns:
            UTF-8 bytes, the same for the same value.

        Raises:
            EncodeError: Something in it cannot be stored, is circular, or nested too deeply; ``place`` says where.
        """
        try:
            if is_plain(value):
                return orjson.dumps(value, None, OPTIONS)
        except (TypeError, RuntimeError):
            pass  # for the long way to tell what it is
        return self._encode_slowly(value, str(place))

    def decode(self, text: bytes | str, place: str = "value") -> Any:
        """Read what :meth:`encode` or any other JSON writer wrote.

        Args:
            text: JSON text; it may come from an untrusted place.
            place: What to call the value in an error.

        Returns:
            The value, made of new objects.

        Raises:
            DecodeError: It is no valid JSON, has unknown tags or classes, or payloads that do not fit.
        """
        if type(text) is bytes and b"$" not in text and b"\\" not in text and is_shallow(text):
            try:
                return orjson.loads(text)
            except ValueError:
                pass  # for the long way to tell what it is
        tree = loads(text, place)
        # Every tag has a "$", or a backslash where another writer escaped it; one character is found quickest.
        if isinstance(text, str):
            may_have_tags = ("$" in text and '"$' in text) or ("\\" in text and '"\\u0024' in text)
        else:
            may_have_tags = (b"$" in text and b'"$' in text) or (b"\\" in text and b'"\\u0024' in text)
        return self._decode_tree(tree, place) if may_have_tags else tree

    def to_tree(self, value: object, place: str = "value") -> Tree:
        """Encode a value without writing it.

        Args:
            value: The value.
            place: What to call the value in an error.

        Returns:
            The tree, which shares nothing with the value.

        Raises:
            EncodeError: As :meth:`encode`.
        """
        return orjson.loads(self.encode(value, place))

    def from_tree(self, tree: Tree, place: str = "value") -> Any:
        """Decode a tree.

        Args:
            tree: The tree, not changed.
            place: What to call the value in an error.

        Returns:
            The value, which shares nothing with the tree.

        Raises:
            DecodeError: As :meth:`decode`.
        """
        try:
            text = dumps(tree)
        except EncodeError as error:
            raise DecodeError(place=place, reason=error.reason) from None
        return self.decode(text, place)

    def class_of(self, tree: Tree) -> type | None:
        """Find the class of whose instance a tree tells, without decoding it.

        Args:
            tree: Any tree.

        Returns:
            The class; ``None`` if the tree tells of no instance, or of one of a class that is not known here.
        """
        if type(tree) is not dict or len(tree) != 1:
            return None
        ((tag, payload),) = tree.items()
        if tag not in CLASS_TAGS or type(payload) is not list or not payload:
            return None
        try:
            return self._registry.find(payload[0])
        except Fault:
            return None

    def _encode_slowly(self, value: object, place: str) -> bytes:
        for _ in range(_ATTEMPTS):
            try:
                tree = Encoding(self._registry, self._extensions, self._handlers).node(value)
                return dumps(tree)
            except Fault as fault:
                raise EncodeError(place=fault.place(place), reason=fault.reason) from fault.cause
            except EncodeError as error:
                raise EncodeError(place=place, reason=error.reason) from None
            except RecursionError:
                raise EncodeError(place=place, reason="nested too deeply; about 250 levels can be stored") from None
            except RuntimeError:
                continue  # a container changed its size: another thread is at it
            except Exception as error:
                raise EncodeError(place=place, reason=f"cannot be stored: {type(error).__name__}") from error
        raise EncodeError(place=place, reason="another thread keeps changing it; store a copy, or guard it with a lock")

    def _decode_tree(self, tree: Tree, place: str) -> Any:
        try:
            return self._decoding.node(tree)
        except Fault as fault:
            raise DecodeError(place=fault.place(place), reason=fault.reason) from fault.cause
        except RecursionError:
            raise DecodeError(place=place, reason="nested too deeply") from None
        except Exception as error:
            raise DecodeError(place=place, reason=f"cannot be read: {type(error).__name__}") from error
