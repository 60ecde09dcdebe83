"""Notifications."""

from __future__ import annotations


class Notices:
    pass
