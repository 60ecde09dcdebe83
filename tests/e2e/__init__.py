"""Whole bots as processes, over HTTP."""
