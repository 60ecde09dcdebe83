"""Persistence for python-telegram-bot on a shared, crash-safe JSON key-value store."""

from __future__ import annotations
