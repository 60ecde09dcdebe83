"""PostgreSQL: any number of stores in one schema of a database, for any number of bots on any machines."""
