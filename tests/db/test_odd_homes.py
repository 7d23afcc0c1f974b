"""A home's path names exactly that folder to SQLite, whatever characters it holds."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from tests.conftest import Qsweep

NAMES = (
    "what?a", "what?b", "what?mode=memory", "a%41b", "aAb", "100%", "a#b", "a b", "a;b", "a&b=c", "ü€", "a'b", 'a"b',
    "a:b", "@home", "a\\b", "[a]", "$HOME", "a+b", "%", "%2e%2e", "file:x", "a://b",
)  # fmt: skip


def test_each_home_has_a_registry_of_its_own_in_its_folder(tmp_path: Path) -> None:
    for name in NAMES:
        home = Home.at(tmp_path / name)
        with Registry.open(home.registry, create=True) as registry:
            registry.add_sweep(name="mine", label=name, spec="{}", size=0)
        assert (home.root / "registry.db").is_file(), name
    for name in NAMES:
        with Registry.open(Home.at(tmp_path / name).registry) as registry:
            assert [one.label for one in registry.sweeps()] == [name]
    top = {Path(name).parts[0] for name in NAMES}
    assert {path.name for path in tmp_path.iterdir()} == top


@pytest.mark.parametrize("name", ["what?a", "a%41b", "a#b", "a b;c"])
def test_commands_find_it_by_path_and_by_url(here: Qsweep, tmp_path: Path, name: str) -> None:
    home = Home.at(tmp_path / name)
    with Registry.open(home.registry, create=True) as registry:
        registry.add_sweep(name="mine", label="a", spec="{}", size=0)
    assert "mine@a" in here("--home", str(home.root), "status").stdout
    path = str(home.root / "registry.db")
    assert "mine@a" in here("--registry", path, "status").stdout
    assert "mine@a" in here("--registry", f"sqlite:///{quote(path)}", "status").stdout
    if "?" in name:
        unquoted = here("--registry", f"sqlite:///{path}", "status")
        assert unquoted.returncode == 2
        assert "give the path of the file itself" in unquoted.stderr
