"""The bare drivers behind the same few methods, each used as its manual says, on the plainest table or hash."""

from __future__ import annotations

import orjson
import psycopg
import redis
from redis import asyncio as redis_asyncio

UPSERT = "INSERT INTO bare VALUES(%s, %s) ON CONFLICT(key) DO UPDATE SET value = excluded.value"
READ = "SELECT value::text FROM bare WHERE key = %s"
TABLES = (
    "CREATE TABLE IF NOT EXISTS bare(key text PRIMARY KEY, value json); CREATE TABLE IF NOT EXISTS whole(data json)"
)


class Psycopg:
    """psycopg with the plainest table."""

    def __init__(self, url):
        self.connection = psycopg.connect(url, autocommit=True)
        self.close = self.connection.close

    def prepare(self):
        self.connection.execute(TABLES)
        self.connection.execute("TRUNCATE bare, whole")
        self.connection.execute("INSERT INTO whole VALUES ('{}')")

    def settle(self):
        """Have all tables, ours too, looked at, as autovacuum does within a minute."""
        self.connection.execute("ANALYZE")

    def upsert(self, rows):
        with self.connection.pipeline(), self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(UPSERT, rows)

    def get(self, key):
        return orjson.loads(self.connection.execute(READ, (key,)).fetchone()[0])

    def set(self, key, value):
        self.connection.execute(UPSERT, (key, orjson.dumps(value).decode()))

    def locked_increment(self, key):
        with self.connection.transaction():
            value = orjson.loads(self.connection.execute(f"{READ} FOR UPDATE", (key,)).fetchone()[0])
            self.connection.execute("UPDATE bare SET value = %s WHERE key = %s", (str(value + 1), key))


class AsyncPsycopg:
    """The same for coroutines, which must not block."""

    async def open(self, url):
        self.connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        self.close = self.connection.close
        return self

    async def upsert(self, rows):
        async with self.connection.pipeline(), self.connection.transaction(), self.connection.cursor() as cursor:
            await cursor.executemany(UPSERT, rows)

    async def get(self, key):
        return orjson.loads((await (await self.connection.execute(READ, (key,))).fetchone())[0])

    async def set(self, key, value):
        await self.connection.execute(UPSERT, (key, orjson.dumps(value).decode()))

    async def write_whole(self, text):
        await self.connection.execute("UPDATE whole SET data = %s", (text.decode(),))


class RedisPy:
    """redis-py with one hash."""

    def __init__(self, url):
        self.client = redis.Redis.from_url(url)
        self.close = self.client.close

    def prepare(self):
        self.client.delete("bare", "whole")

    def settle(self):
        pass

    def upsert(self, rows):
        with self.client.pipeline(transaction=True) as pipeline:
            pipeline.hset("bare", mapping=dict(rows))
            pipeline.execute()

    def get(self, key):
        return orjson.loads(self.client.hget("bare", key))

    def set(self, key, value):
        self.client.hset("bare", key, orjson.dumps(value))

    def locked_increment(self, key):
        """Read and write with WATCH, again when somebody else was quicker: its own Lock sleeps 0.1 s at a time."""

        def step(pipeline):
            value = orjson.loads(pipeline.hget("bare", key))
            pipeline.multi()
            pipeline.hset("bare", key, value + 1)

        self.client.transaction(step, "bare")


class AsyncRedisPy:
    """The same for coroutines."""

    async def open(self, url):
        self.client = redis_asyncio.Redis.from_url(url)
        self.close = self.client.aclose
        return self

    async def upsert(self, rows):
        async with self.client.pipeline(transaction=True) as pipeline:
            pipeline.hset("bare", mapping=dict(rows))
            await pipeline.execute()

    async def get(self, key):
        return orjson.loads(await self.client.hget("bare", key))

    async def set(self, key, value):
        await self.client.hset("bare", key, orjson.dumps(value))

    async def write_whole(self, text):
        await self.client.set("whole", text)
