"""The statements that requests become; ``{s}`` stands for the quoted schema. No decisions here, see ``jobs``."""

from __future__ import annotations

from typing import Final

_NOW: Final = "floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint"
_RECORD: Final = "e.value, e.version, e.updated_at, e.ttl, e.expires_at"
_ALIVE: Final = f"e.value IS NOT NULL AND (e.expires_at IS NULL OR e.expires_at > {_NOW})"

# All of these give at least one row where the store exists, and none where it was deleted.

GET: Final = f"""SELECT {_RECORD} FROM {{s}}.kv_stores s
    LEFT JOIN {{s}}.kv_entries e ON e.store = s.id AND e.domain = %s AND e.key = %s AND {_ALIVE}
    WHERE s.id = %s"""
GET_MANY: Final = f"""SELECT {_RECORD} FROM {{s}}.kv_stores s
    LEFT JOIN unnest(%s, %s) WITH ORDINALITY AS a(domain, key, n) ON true
    LEFT JOIN LATERAL (
        SELECT * FROM {{s}}.kv_entries e
        WHERE e.store = s.id AND e.domain = a.domain AND e.key = a.key AND {_ALIVE} OFFSET 0
    ) e ON true
    WHERE s.id = %s ORDER BY a.n"""
PAGE: Final = f"""SELECT e.key, {_RECORD} FROM {{s}}.kv_stores s
    LEFT JOIN LATERAL (
        SELECT * FROM {{s}}.kv_entries e WHERE e.store = s.id AND e.domain = %s AND e.key >= %s{{stop}} AND {_ALIVE}
        ORDER BY e.key {{order}} LIMIT %s
    ) e ON true
    WHERE s.id = %s ORDER BY e.key {{order}}"""
COUNT: Final = f"""SELECT (SELECT count(*) FROM {{s}}.kv_entries e
        WHERE e.store = s.id AND e.domain = %s AND e.key >= %s{{stop}} AND {_ALIVE})
    FROM {{s}}.kv_stores s WHERE s.id = %s"""
# OFFSET 0 has the feed's index used: a table that was not analysed yet looks as if its domains were the smaller part.
CHANGES: Final = f"""SELECT s.head, s.horizon, s.incarnation, n.expires_in, e.domain, e.key, {_RECORD}
    FROM {{s}}.kv_stores s
    LEFT JOIN LATERAL (
        SELECT min(x.expires_at) - {_NOW} AS expires_in FROM {{s}}.kv_entries x
        WHERE x.store = s.id AND x.expires_at IS NOT NULL
    ) n ON true
    LEFT JOIN LATERAL (
        SELECT * FROM (
            SELECT * FROM {{s}}.kv_entries c WHERE c.store = s.id AND c.version > %s ORDER BY c.version OFFSET 0
        ) e WHERE true{{domains}} ORDER BY e.version LIMIT %s
    ) e ON true
    WHERE s.id = %s ORDER BY e.version"""
HEAD: Final = f"SELECT greatest(s.head, s.horizon), {_NOW} FROM {{s}}.kv_stores s WHERE s.id = %s"
FAILED: Final = f"SELECT 1 FROM {{s}}.kv_failed_1(%s, {_NOW}{', %s' * 8}) LIMIT 1"

FIND: Final = "SELECT s.id, s.name, s.incarnation FROM {s}.kv_stores s WHERE s.name = %s"
LIST: Final = "SELECT s.id, s.name, s.incarnation FROM {s}.kv_stores s ORDER BY s.name"
OPEN: Final = "SELECT * FROM {s}.kv_open_1(%s, %s)"
RENAME: Final = "SELECT * FROM {s}.kv_rename_1(%s, %s, %s)"
DELETE: Final = "SELECT * FROM {s}.kv_delete_1(%s, %s)"
LIST_DOMAINS: Final = """SELECT d.domain, d.keep FROM {s}.kv_stores s
    LEFT JOIN {s}.kv_domains d ON d.store = s.id AND d.keep IS NOT NULL WHERE s.id = %s ORDER BY d.domain"""
SET_DOMAIN: Final = "SELECT {s}.kv_set_domain_1(%s, %s, %s)"
COMMIT: Final = f"SELECT * FROM {{s}}.kv_commit_1({', '.join(['%s'] * 19)})"
SWEEP: Final = "SELECT {s}.kv_sweep_1(%s)"

ACQUIRE: Final = "SELECT * FROM {s}.kv_acquire_1(%s, %s, %s, %s, %s, %s)"
RENEW: Final = f"""UPDATE {{s}}.kv_leases l SET expires_at = {_NOW} + %s
    WHERE l.store = %s AND l.name = %s AND l.token = %s AND l.holder IS NOT NULL AND l.expires_at > {_NOW}
    RETURNING 1"""
RELEASE: Final = "SELECT {s}.kv_release_1(%s, %s, %s, %s, %s)"
ATTACH: Final = "SELECT {s}.kv_attach_1(%s, %s, %s)"
DETACH: Final = f"""UPDATE {{s}}.kv_bots b SET is_attached = false, last_seen = {_NOW}
    WHERE b.store = %s AND b.bot = %s AND b.holder = %s"""
BOTS: Final = f"""SELECT b.bot, b.attached_at, b.last_seen, b.is_attached AND b.last_seen > {_NOW} - %s
    FROM {{s}}.kv_bots b WHERE b.store = %s ORDER BY b.bot, b.holder"""

BEGIN_WRITE: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
BEGIN_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
END: Final = "COMMIT"
# Settings hold until the end of the transaction, so that a pooler may give the connection to others afterwards.
LIMITS: Final = "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true)"
# Plans of functions are kept, and one made for a table that was small must not be used when it has grown.
PLANS: Final = ", set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)"
DURABLE: Final = """, set_config('synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END,
    true)"""
# A holder whose machine has vanished is noticed by the server.
WATCHED: Final = """, set_config('tcp_keepalives_idle', '10', true), set_config('tcp_keepalives_interval', '5', true),
    set_config('tcp_keepalives_count', '3', true)"""
LOCK: Final = ", pg_advisory_xact_lock({s}.kv_lock_class(), %s)"
LOCK_BY_NAME: Final = "SELECT pg_advisory_xact_lock({s}.kv_lock_class(), s.id) FROM {s}.kv_stores s WHERE s.name = %s"

# Not to_regclass(), which may answer from the cache of before the lock was taken.
WHAT_EXISTS: Final = """SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = %s),
    EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relname = 'kv_format')"""
FORMAT: Final = "SELECT number, revision FROM {s}.kv_format"
LOCK_SCHEMA: Final = "SELECT pg_advisory_xact_lock(%s)"
CHANNEL: Final = "SELECT {s}.kv_channel()"
