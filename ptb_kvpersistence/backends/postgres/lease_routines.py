"""The server's functions for named locks and attached bots; ``routines`` has the others and says how they are written.

A lease is a row, and its row lock is what keeps it from changing hands under a commit; none of these needs the lock of
the store.
"""

from __future__ import annotations

from typing import Final

from ptb_kvpersistence.backends.base import ATTACHED_FOR, LINE_PATIENCE

MICROSECONDS: Final = "floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
MILLISECONDS: Final = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

_ACQUIRE: Final = f"""
CREATE OR REPLACE FUNCTION {{s}}.kv_acquire_1(
    p_store integer, p_name text, p_holder text, p_ttl bigint, p_waits boolean, p_again boolean)
RETURNS TABLE(token bigint, holder text, ahead integer) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_lease {{s}}.kv_leases;
    v_now bigint;
BEGIN
    LOOP
        SELECT l.* INTO v_lease FROM {{s}}.kv_leases l WHERE l.store = p_store AND l.name = p_name FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO {{s}}.kv_leases (store, name, token, expires_at) VALUES (p_store, p_name, 0, 0)
        ON CONFLICT DO NOTHING;
    END LOOP;
    v_now := {MILLISECONDS};
    holder := CASE WHEN v_lease.expires_at > v_now THEN v_lease.holder END;
    IF p_again AND holder = p_holder THEN
        -- The first request had got it, but the reply was lost.
        UPDATE {{s}}.kv_leases l SET expires_at = v_now + p_ttl WHERE l.store = p_store AND l.name = p_name;
        RETURN QUERY SELECT v_lease.token, p_holder, 0;
        RETURN;
    END IF;
    SELECT count(*) INTO ahead FROM {{s}}.kv_waiters w
    WHERE w.store = p_store AND w.name = p_name AND w.seen_at > v_now - {LINE_PATIENCE} AND w.ticket < coalesce((
        SELECT o.ticket FROM {{s}}.kv_waiters o WHERE o.store = p_store AND o.name = p_name AND o.holder = p_holder),
        9223372036854775807);
    IF holder IS NOT NULL OR ahead > 0 THEN
        IF p_waits THEN
            INSERT INTO {{s}}.kv_waiters AS w (store, name, holder, seen_at) VALUES (p_store, p_name, p_holder, v_now)
            ON CONFLICT (store, name, holder) DO UPDATE SET seen_at = excluded.seen_at
            WHERE w.seen_at < excluded.seen_at - {LINE_PATIENCE // 5};
        END IF;
        RETURN QUERY SELECT NULL::bigint, holder, ahead;
        RETURN;
    END IF;
    DELETE FROM {{s}}.kv_waiters w WHERE w.store = p_store AND w.name = p_name
        AND (w.holder = p_holder OR w.seen_at < v_now - {ATTACHED_FOR});
    token := greatest(v_lease.token + 1, {MICROSECONDS});
    UPDATE {{s}}.kv_leases l SET token = kv_acquire_1.token, holder = p_holder, expires_at = v_now + p_ttl
    WHERE l.store = p_store AND l.name = p_name;
    RETURN QUERY SELECT token, p_holder, 0;
END $$
"""

_RELEASE: Final = f"""
CREATE OR REPLACE FUNCTION {{s}}.kv_release_1(
    p_store integer, p_name text, p_holder text, p_token bigint, p_again boolean)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    DELETE FROM {{s}}.kv_waiters w WHERE w.store = p_store AND w.name = p_name AND w.holder = p_holder;
    IF p_token IS NULL THEN
        RETURN false;
    END IF;
    -- The row stays for its token, which the next one has to exceed.
    UPDATE {{s}}.kv_leases l SET holder = NULL WHERE l.store = p_store AND l.name = p_name AND l.token = p_token
        AND (l.holder IS NOT NULL OR p_again) AND l.expires_at > {MILLISECONDS};
    RETURN FOUND;
END $$
"""

_ATTACH: Final = f"""
CREATE OR REPLACE FUNCTION {{s}}.kv_attach_1(p_store integer, p_bot text, p_holder text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now bigint := {MILLISECONDS};
    v_since bigint;
BEGIN
    PERFORM FROM {{s}}.kv_stores s WHERE s.id = p_store FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM {{s}}.kv_bots b WHERE b.store = p_store AND b.bot = p_bot
        AND NOT (b.is_attached AND b.last_seen > v_now - {ATTACHED_FOR});
    SELECT coalesce(min(b.attached_at), v_now) INTO v_since
    FROM {{s}}.kv_bots b WHERE b.store = p_store AND b.bot = p_bot;
    INSERT INTO {{s}}.kv_bots (store, bot, holder, attached_at, last_seen, is_attached)
    VALUES (p_store, p_bot, p_holder, v_since, v_now, true)
    ON CONFLICT (store, bot, holder) DO UPDATE SET last_seen = v_now, is_attached = true, attached_at = v_since;
    RETURN true;
END $$
"""

LEASE_ROUTINES: Final = (_ACQUIRE, _RELEASE, _ATTACH)
