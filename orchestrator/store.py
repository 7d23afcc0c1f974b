"""Where the results of a home lie, if not in the home: `launch --results URL`."""

from __future__ import annotations

import uuid

from qsweep.db.home import STORE, Home
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.wholefiles import write_whole


def check_store(home: Home, url: str | None) -> None:
    """Raises InputError if `url` can't be written, or the home has its results elsewhere already."""
    if url is None or str(home.store) == url:
        return
    if isinstance(home.store, str) or any(home.results.rglob("*.parquet")):
        raise InputError(
            f"the results of this home lie in {home.store}",
            place="--results",
            allowed="leave the option out, or begin another home with --home",
        )
    if "://" not in url:
        raise InputError(f"{url!r} is no URL", place="--results", allowed="for example s3://bucket/sweeps")
    import pyarrow as pa  # here: few launches name a URL
    import pyarrow.fs as fs

    try:
        files, root = fs.FileSystem.from_uri(url)
        probe = f"{root}/.qsweep-{uuid.uuid4().hex}"
        files.create_dir(root)
        with files.open_output_stream(probe) as stream:
            stream.write(b"")
        files.delete_file(probe)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"nothing can be written there: {error}", place=f"--results {url}") from None


def name_store(home: Home, url: str | None) -> None:
    """Write down in the home where its results lie; every command and agent reads it there."""
    if url is None or str(home.store) == url:
        return
    home.prepare()
    write_whole(home.root / STORE, f"{url}\n".encode())
