"""What the server does by itself: functions that judge and apply a whole request in one call.

``{s}`` stands for the quoted schema. A statement inside a VOLATILE function sees what was committed before it, so what
follows the taking of a lock is up to date, at READ COMMITTED. A function's number grows when its arguments or its reply
change; older ones stay for older packages.
"""

from __future__ import annotations

from typing import Final

from ptb_kvpersistence.backends.base import ATTACHED_FOR, TOMBSTONE_LIFETIME
from ptb_kvpersistence.backends.postgres.lease_routines import LEASE_ROUTINES, MICROSECONDS, MILLISECONDS

REVISION: Final = 3
"""Grows with every change below; a database that has a lower one gets the functions anew."""

# One plan for all arguments: by their numbers the server would make a new one for each check, which takes longer than
# the commit. It is kept, so one made while the table was small must not read all of it when it has grown.
_PLANNED: Final = "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off"

_LOCK_KEY: Final = """
CREATE OR REPLACE FUNCTION {s}.kv_lock_class() RETURNS integer LANGUAGE sql STABLE AS
$$ SELECT '{t}.kv_stores'::regclass::oid::integer $$
"""

_NOTIFY: Final = """
CREATE OR REPLACE FUNCTION {s}.kv_channel() RETURNS text LANGUAGE sql STABLE AS
$$ SELECT 'kv_' || '{t}.kv_stores'::regclass::oid $$
"""

_FAILED: Final = f"""
CREATE OR REPLACE FUNCTION {{s}}.kv_failed_1(
    p_store integer, p_now bigint, c_domains text[], c_keys text[], c_versions bigint[],
    r_domains text[], r_starts text[], r_stops text[], r_sinces bigint[], r_ats bigint[])
RETURNS TABLE(kind text, item integer, value json, version bigint, updated_at bigint, ttl bigint, expires_at bigint)
LANGUAGE plpgsql VOLATILE {_PLANNED} AS $$
#variable_conflict use_column
BEGIN
    IF r_domains IS NOT NULL THEN
        RETURN QUERY
        SELECT 'range', r.n::integer, NULL::json, 0::bigint, 0::bigint, 0::bigint, 0::bigint
        FROM unnest(r_domains, r_starts, r_stops, r_sinces, r_ats) WITH ORDINALITY
            AS r(domain, start, stop, since, at, n)
        WHERE EXISTS (
            -- The subquery is kept apart, so that the few changes since then are looked at, not the whole range.
            SELECT FROM (
                SELECT e.domain, e.key FROM {{s}}.kv_entries e WHERE e.store = p_store AND e.version > r.since OFFSET 0
            ) c WHERE c.domain = r.domain AND c.key >= r.start AND (r.stop IS NULL OR c.key < r.stop)
        ) OR EXISTS (
            SELECT FROM (
                SELECT e.domain, e.key FROM {{s}}.kv_entries e
                WHERE e.store = p_store AND e.expires_at > r.at AND e.expires_at <= p_now OFFSET 0
            ) c WHERE c.domain = r.domain AND c.key >= r.start AND (r.stop IS NULL OR c.key < r.stop)
        ) LIMIT 1;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF c_domains IS NOT NULL THEN
        RETURN QUERY
        SELECT 'version', c.n::integer, e.value, e.version, e.updated_at, e.ttl, e.expires_at
        FROM unnest(c_domains, c_keys, c_versions) WITH ORDINALITY AS c(domain, key, version, n)
        LEFT JOIN LATERAL (
            SELECT * FROM {{s}}.kv_entries x WHERE x.store = p_store AND x.domain = c.domain AND x.key = c.key
                AND x.value IS NOT NULL AND (x.expires_at IS NULL OR x.expires_at > p_now) OFFSET 0
        ) e ON true
        WHERE coalesce(e.version, 0) <> c.version;
    END IF;
END $$
"""

_COMMIT: Final = f"""
CREATE OR REPLACE FUNCTION {{s}}.kv_commit_1(
    p_store integer, p_id text, p_remember bigint, f_names text[], f_tokens bigint[],
    c_domains text[], c_keys text[], c_versions bigint[],
    r_domains text[], r_starts text[], r_stops text[], r_sinces bigint[], r_ats bigint[],
    m_domains text[], m_keys text[], m_values json[], m_ttls bigint[], m_expires bigint[], m_kinds smallint[])
RETURNS TABLE(outcome text, first bigint, skipped integer[], item integer,
    value json, version bigint, updated_at bigint, ttl bigint, expires_at bigint)
LANGUAGE plpgsql VOLATILE {_PLANNED} AS $$
#variable_conflict use_column
DECLARE
    v_now bigint;
    v_head bigint;
    v_last bigint;
    v_first bigint;
    v_skipped integer[];
    v_item integer;
BEGIN
    IF p_id IS NOT NULL THEN
        SELECT c.first, c.skipped INTO v_first, v_skipped FROM {{s}}.kv_commits c WHERE c.id = p_id;
        IF FOUND THEN
            RETURN QUERY SELECT 'before', v_first, v_skipped, NULL::integer, NULL::json,
                NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint;
            RETURN;
        END IF;
    END IF;
    SELECT s.head INTO v_head FROM {{s}}.kv_stores s WHERE s.id = p_store;
    IF NOT FOUND THEN
        outcome := 'gone';
        RETURN NEXT;
        RETURN;
    END IF;
    IF f_names IS NOT NULL THEN
        -- Locked until the commit is made, so that no lease changes hands before.
        PERFORM FROM {{s}}.kv_leases l WHERE l.store = p_store AND l.name = ANY (f_names) ORDER BY l.name FOR SHARE;
        SELECT min(f.n) INTO v_item FROM unnest(f_names, f_tokens) WITH ORDINALITY AS f(name, token, n)
        WHERE NOT EXISTS (
            SELECT FROM {{s}}.kv_leases l WHERE l.store = p_store AND l.name = f.name AND l.token = f.token
                AND l.holder IS NOT NULL AND l.expires_at > {MILLISECONDS});
        IF v_item IS NOT NULL THEN
            outcome := 'fence';
            item := v_item;
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    v_now := {MILLISECONDS};
    IF c_domains IS NOT NULL OR r_domains IS NOT NULL THEN
        RETURN QUERY SELECT f.kind, NULL::bigint, NULL::integer[], f.item, f.value, f.version, f.updated_at,
            f.ttl, f.expires_at
        FROM {{s}}.kv_failed_1(p_store, v_now, c_domains, c_keys, c_versions, r_domains, r_starts, r_stops,
            r_sinces, r_ats) f;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    v_first := greatest(v_head + 1, {MICROSECONDS});
    IF m_domains IS NULL THEN
        v_last := NULL;
    ELSIF cardinality(m_domains) = 0 THEN
        -- The id is used up and nothing else; by this its row differs from that of any commit.
        v_skipped := '{{}}';
    ELSIF m_kinds IS NULL THEN
        -- Nothing but puts, each of another key.
        INSERT INTO {{s}}.kv_entries (store, domain, key, value, version, updated_at, ttl, expires_at)
        SELECT p_store, m.domain, m.key, m.value, v_first - 1 + m.n, v_now,
            CASE WHEN m.expires_at IS NULL THEN coalesce(m.ttl, d.keep) ELSE m.ttl END,
            coalesce(m.expires_at, v_now + coalesce(m.ttl, d.keep))
        FROM unnest(m_domains, m_keys, m_values, m_ttls, m_expires) WITH ORDINALITY
            AS m(domain, key, value, ttl, expires_at, n)
        LEFT JOIN {{s}}.kv_domains d ON d.store = p_store AND d.domain = m.domain
        ON CONFLICT (store, domain, key) DO UPDATE SET value = excluded.value, version = excluded.version,
            updated_at = excluded.updated_at, ttl = excluded.ttl, expires_at = excluded.expires_at;
        v_last := v_first - 1 + cardinality(m_domains);
    ELSE
        -- Kinds: 0 put, 1 delete if there, 2 delete of what this commit put, 3 delete of what it deleted;
        -- 4, 5, 6 are 0, 2, 1 where a later mutation of the same key is the one that is written.
        WITH judged AS (
            SELECT m.*, m.kind IN (0, 2, 4, 5) OR (m.kind IN (1, 6) AND EXISTS (
                SELECT FROM {{s}}.kv_entries e WHERE e.store = p_store AND e.domain = m.domain AND e.key = m.key
                    AND e.value IS NOT NULL AND (e.expires_at IS NULL OR e.expires_at > v_now))) AS is_made
            FROM unnest(m_domains, m_keys, m_values, m_ttls, m_expires, m_kinds) WITH ORDINALITY
                AS m(domain, key, value, ttl, expires_at, kind, n)
        ), numbered AS (
            SELECT j.*, v_first - 1 + count(*) FILTER (WHERE j.is_made) OVER (ORDER BY j.n) AS number FROM judged j
        ), written AS (
            INSERT INTO {{s}}.kv_entries (store, domain, key, value, version, updated_at, ttl, expires_at)
            SELECT p_store, m.domain, m.key, m.value, m.number, v_now,
                CASE WHEN m.value IS NULL THEN NULL WHEN m.expires_at IS NULL THEN coalesce(m.ttl, d.keep)
                    ELSE m.ttl END,
                CASE WHEN m.value IS NOT NULL THEN coalesce(m.expires_at, v_now + coalesce(m.ttl, d.keep)) END
            FROM numbered m LEFT JOIN {{s}}.kv_domains d ON d.store = p_store AND d.domain = m.domain
            WHERE m.is_made AND m.kind <= 2
            ON CONFLICT (store, domain, key) DO UPDATE SET value = excluded.value, version = excluded.version,
                updated_at = excluded.updated_at, ttl = excluded.ttl, expires_at = excluded.expires_at
        )
        SELECT max(m.number) FILTER (WHERE m.is_made), array_agg(m.n::integer ORDER BY m.n) FILTER (WHERE NOT m.is_made)
        INTO v_last, v_skipped FROM numbered m;
    END IF;
    IF p_id IS NOT NULL THEN
        INSERT INTO {{s}}.kv_commits (id, first, skipped, forget_at)
        VALUES (p_id, v_first, v_skipped, v_now + p_remember);
    END IF;
    IF v_last IS NOT NULL THEN
        UPDATE {{s}}.kv_stores SET head = v_last WHERE id = p_store;
        PERFORM pg_notify({{s}}.kv_channel(), '');
    END IF;
    outcome := 'done';
    first := v_first;
    skipped := v_skipped;
    RETURN NEXT;
END $$
"""

_SWEEP: Final = f"""
CREATE OR REPLACE FUNCTION {{s}}.kv_sweep_1(p_limit integer) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_store integer;
    v_now bigint := {MILLISECONDS};
    v_old bigint := {MILLISECONDS} - {TOMBSTONE_LIFETIME};
    v_first bigint;
    v_done integer := 0;
    v_count integer;
    v_horizon bigint;
BEGIN
    DELETE FROM {{s}}.kv_commits WHERE forget_at < v_now;
    FOR v_store IN
        SELECT s.id FROM {{s}}.kv_stores s
        WHERE EXISTS (SELECT FROM {{s}}.kv_entries e WHERE e.store = s.id AND e.expires_at <= v_now)
            OR EXISTS (SELECT FROM {{s}}.kv_entries e WHERE e.store = s.id AND e.value IS NULL AND e.updated_at < v_old)
        ORDER BY s.id
    LOOP
        -- Who has the store to himself is not waited for; the next sweep will do it.
        CONTINUE WHEN NOT pg_try_advisory_xact_lock({{s}}.kv_lock_class(), v_store);
        WITH gone AS (
            DELETE FROM {{s}}.kv_entries e WHERE e.store = v_store AND e.value IS NULL AND e.updated_at < v_old
            RETURNING e.version
        )
        SELECT count(*), max(version) INTO v_count, v_horizon FROM gone;
        v_done := v_done + v_count;
        UPDATE {{s}}.kv_stores SET horizon = greatest(horizon, v_horizon) WHERE id = v_store AND v_count > 0;
        CONTINUE WHEN v_done >= p_limit;
        SELECT greatest(s.head + 1, {MICROSECONDS}) INTO v_first FROM {{s}}.kv_stores s WHERE s.id = v_store;
        WITH expired AS (
            SELECT e.domain, e.key, row_number() OVER (ORDER BY e.expires_at, e.domain, e.key) AS n
            FROM {{s}}.kv_entries e WHERE e.store = v_store AND e.expires_at <= v_now
            ORDER BY e.expires_at, e.domain, e.key LIMIT p_limit - v_done
        )
        UPDATE {{s}}.kv_entries e SET value = NULL, version = v_first - 1 + x.n, updated_at = v_now, ttl = NULL,
            expires_at = NULL
        FROM expired x WHERE e.store = v_store AND e.domain = x.domain AND e.key = x.key;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count > 0 THEN
            UPDATE {{s}}.kv_stores SET head = v_first - 1 + v_count WHERE id = v_store;
            PERFORM pg_notify({{s}}.kv_channel(), '');
        END IF;
        v_done := v_done + v_count;
    END LOOP;
    RETURN v_done;
END $$
"""

# --- stores ---

_OPEN: Final = f"""
CREATE OR REPLACE FUNCTION {{s}}.kv_open_1(p_name text, p_incarnation text)
RETURNS TABLE(id integer, name text, incarnation text) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    -- A replica, which takes no writes, has its stores too.
    IF NOT EXISTS (SELECT FROM {{s}}.kv_stores s WHERE s.name = p_name) THEN
        -- It begins above all versions of an earlier store of that name, which are no place to go on from.
        INSERT INTO {{s}}.kv_stores (name, incarnation, created_at, head, horizon)
        VALUES (p_name, p_incarnation, {MILLISECONDS}, {MICROSECONDS}, {MICROSECONDS})
        ON CONFLICT (name) DO NOTHING;
        IF FOUND THEN
            PERFORM pg_notify({{s}}.kv_channel(), '');
        END IF;
    END IF;
    RETURN QUERY SELECT s.id, s.name, s.incarnation FROM {{s}}.kv_stores s WHERE s.name = p_name;
END $$
"""

# Both give the outcome and the names of the bots that are attached.
_ATTACHED: Final = f"""
CREATE OR REPLACE FUNCTION {{s}}.kv_attached_1(p_store integer) RETURNS text[] LANGUAGE sql VOLATILE AS $$
    SELECT array_agg(DISTINCT b.bot ORDER BY b.bot) FROM {{s}}.kv_bots b
    WHERE b.store = p_store AND b.is_attached AND b.last_seen > {MILLISECONDS} - {ATTACHED_FOR}
$$
"""

_RENAME: Final = """
CREATE OR REPLACE FUNCTION {s}.kv_rename_1(p_name text, p_new text, p_force boolean)
RETURNS TABLE(outcome text, bots text[]) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_store integer;
BEGIN
    SELECT s.id INTO v_store FROM {s}.kv_stores s WHERE s.name = p_name FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'gone', NULL::text[];
    ELSIF EXISTS (SELECT FROM {s}.kv_stores s WHERE s.name = p_new) THEN
        RETURN QUERY SELECT 'exists', NULL::text[];
    ELSE
        bots := {s}.kv_attached_1(v_store);
        IF bots IS NOT NULL AND NOT p_force THEN
            RETURN QUERY SELECT 'used', bots;
        ELSE
            UPDATE {s}.kv_stores SET name = p_new WHERE id = v_store;
            RETURN QUERY SELECT 'done', NULL::text[];
        END IF;
    END IF;
END $$
"""

_DELETE: Final = """
CREATE OR REPLACE FUNCTION {s}.kv_delete_1(p_name text, p_force boolean)
RETURNS TABLE(outcome text, bots text[]) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_store integer;
BEGIN
    -- Attaching shares this lock, so a bot is seen here, or sees that the store is gone.
    SELECT s.id INTO v_store FROM {s}.kv_stores s WHERE s.name = p_name FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'gone', NULL::text[];
        RETURN;
    END IF;
    bots := {s}.kv_attached_1(v_store);
    IF bots IS NOT NULL AND NOT p_force THEN
        RETURN QUERY SELECT 'used', bots;
        RETURN;
    END IF;
    DELETE FROM {s}.kv_entries WHERE store = v_store;
    DELETE FROM {s}.kv_domains WHERE store = v_store;
    DELETE FROM {s}.kv_waiters WHERE store = v_store;
    DELETE FROM {s}.kv_leases WHERE store = v_store;
    DELETE FROM {s}.kv_bots WHERE store = v_store;
    DELETE FROM {s}.kv_stores WHERE id = v_store;
    PERFORM pg_notify({s}.kv_channel(), '');
    RETURN QUERY SELECT 'done', NULL::text[];
END $$
"""

_SET_DOMAIN: Final = """
CREATE OR REPLACE FUNCTION {s}.kv_set_domain_1(p_store integer, p_domain text, p_keep bigint)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM {s}.kv_stores s WHERE s.id = p_store) THEN
        RETURN false;
    END IF;
    INSERT INTO {s}.kv_domains (store, domain, keep) VALUES (p_store, p_domain, p_keep)
    ON CONFLICT (store, domain) DO UPDATE SET keep = excluded.keep;
    RETURN true;
END $$
"""

ROUTINES: Final = (
    _LOCK_KEY,
    _NOTIFY,
    _FAILED,
    _COMMIT,
    _SWEEP,
    _OPEN,
    _ATTACHED,
    _RENAME,
    _DELETE,
    _SET_DOMAIN,
    *LEASE_ROUTINES,
)
