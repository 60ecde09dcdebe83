"""PostgreSQL: any number of stores in one schema of a database, for any number of bots on any machines.

Location: ``postgresql://user:password@host:port/database?schema=bots&sslmode=verify-full``. ``schema`` is our own
parameter (default: the first schema of the search path that exists; one that is named is made); all others are libpq's.

What the server has to be: PostgreSQL 13 or newer, encoding UTF8. The first to connect makes the tables, all named
``kv_...``, and needs CREATE for that; later ones need USAGE, and to read, write and execute.

Guarantees: the server's. A commit is one transaction in one round trip. ``durable=True`` waits for the disk also where
``synchronous_commit`` is off; without it the server's own setting decides.

Exclusive transactions hold an advisory lock per store, on a connection of their own; when their process ends, the
server frees it at once, when their machine vanishes, in half a minute. Transactions on two stores at once, in opposite
order in two places, wait for each other until one of them times out.

Notifications: each commit makes one on the channel ``kv_<number>``, which PostgreSQL serialises over all databases of a
server. They tell refresh and watchers that nothing has changed, at the price of one connection per process that asks.

Through PgBouncer in transaction mode (and other poolers, noticed when connecting) all works but notifications: refresh
and watchers ask the server instead. Nothing of a session is relied upon: settings are SET LOCAL, locks belong to
transactions, statements are not prepared. Parameters that PgBouncer refuses at connecting, such as ``options``, are to
stay out of the URL; name the schema by ``?schema=``.

On Windows psycopg's async face runs on a selector event loop only.
"""
