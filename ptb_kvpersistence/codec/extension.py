"""The protocol of the codec's extensions: how a library's own classes are stored under a tag of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ptb_kvpersistence.codec.place import Step
from ptb_kvpersistence.codec.text import Tree


class Extension(Protocol):
    """Stores the classes of a library under a tag of their own."""

    @property
    def tag(self) -> str:
        """The tag, for example ``$telegram``; no other tag of the codec."""

    def claims(self, cls: type) -> bool:
        """Whether instances of exactly this class are the extension's; asked once per class."""

    def encode(self, value: object, encode: Callable[[object, Step], Tree]) -> Tree:
        """Give the payload for a value.

        Args:
            value: An instance of a claimed class.
            encode: Encodes a child; the step is the text that its place gets, such as ``.text`` or ``['cart']``.

        Returns:
            Any tree; what ``encode`` returned may be part of it.
        """

    def decode(self, payload: Tree, decode: Callable[[Tree], object]) -> object:
        """Rebuild a value.

        Args:
            payload: A new tree, which may be kept or changed; not to be trusted.
            decode: Decodes a child.

        Returns:
            The value.
        """
