"""SQLite: one file, any number of threads, processes and bots."""
