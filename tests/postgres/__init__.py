"""The PostgreSQL backend on a real server."""
