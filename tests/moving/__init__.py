"""Whole stores from one database to another, and to JSON lines and back."""
