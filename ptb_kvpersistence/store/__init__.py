"""Named stores for users: the sync and the async face of the same operations."""
