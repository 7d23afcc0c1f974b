"""Sweep files and `--set`: what is read, and what is refused with its place and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.file_form import check_form
from qsweep.sweeps.files import builtin_names, read_sweep, source_text
from qsweep.sweeps.spec import variant
from qsweep.sweeps.toml import parse_toml

DIGITS = source_text("digits-grid")


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_users_file_spans_the_same_jobs_as_the_builtin_it_copies(tmp_path: Path) -> None:
    mine = read_sweep(write(tmp_path, DIGITS))
    assert mine.name == "mine"
    assert mine.jobs() == read_sweep("digits-grid").jobs()


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("[fixed]", "colour = 1\n[fixed]", ["unknown key 'colour'", "allowed: axes"]),
        ("[fixed]", "[fixd]", ["unknown key 'fixd'", "did you mean 'fixed'"]),
        ("lr_factor = 0.1", "lr_facto = 0.1", ["'lr_facto' is not a setting", "did you mean 'lr_factor'"]),
        (
            "batch_size = 64",
            "batch_size = '64'",
            ["batch_size", "'64' is not a whole number", "allowed: 2 or more, up to 65536"],
        ),
        ("batch_size = 64", "batch_size = 64.5", ["batch_size", "64.5 is not a whole number"]),
        ("batch_size = 64", "batch_size = true", ["batch_size", "True is not a whole number"]),
        ("lr_factor = 0.1", "lr_factor = nan", ["lr_factor", "nan is not allowed"]),
        ("depth = [2, 3, 4]", "depth = []", ["axes.depth", "at least one value"]),
        ("depth = [2, 3, 4]", "depth = 2", ["axes.depth", "list"]),
        ("depth = [2, 3, 4]", "depth = [2, 3, 2]", ["axes.depth", "the value 2 stands twice"]),
        ("depth = [2, 3, 4]", "depth = [2, 3", ["not TOML"]),
        ("weight_decay = [0.0, 1e-4, 2e-4]", "weight_decay = [0, 0.0]", ["axes.weight_decay", "stands twice"]),
        ("adam = [0.01", "adm = [1.0]\nadam = [0.01", ["axes.learning_rate", "optimizer is never 'adm'", "'adam'"]),
        ("batch_size = 64", "batch_size = 1441\nseed = 1", ["batch_size", "single image"]),
        ("batch_size = 64", f"batch_size = {10**400}", ["batch_size", "is not allowed"]),
        ("lr_factor = 0.1", f"lr_factor = {10**400}", ["lr_factor", "too large"]),
        ("lr_factor = 0.1", f"lr_factor = {'1' * 5000}", ["not TOML"]),
        ("milestones = [12, 18]", "milestones = [18, 12]", ["milestones", "in rising order"]),
        ("momentum = 0.9", "momentum = 1.0", ["momentum", "allowed: 0 or more, below 1"]),
        ("lr_factor = 0.1", "lr_factor = 2020-02-02", ["lr_factor", "a number, a text"]),
        ("depth = [2, 3, 4]", "depth = [0]", ["depth", "0 is not allowed", "allowed: 1 or more, up to 16"]),
        ("bits = [32, 8, 4, 2]", "bits = [32, 9]", ["bits", "9 is not allowed", "2, 3, 4, 5, 6, 7, 8, 32"]),
        ("bits = [32, 8, 4, 2]", "bits = [1]", ["bits", "1 is not allowed"]),
        ('"rmsprop"]', '"rmsprop", "lion"]', ["axes.learning_rate", "no values for optimizer = 'lion'"]),
        ('by = "optimizer"', 'by = "optimiser"', ["axes.learning_rate.by", "'optimiser'"]),
        ('model = "nin"', 'model = "nim"', ["model", "'nim' is not known", "nin"]),
        ("epochs =", "# epochs =", ["epochs is missing", "allowed: 0 or more, up to 100000"]),
        ("[axes]", "[axes]\nepochs = [1]", ["'epochs' stands under [fixed] and under [axes]"]),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, old: str, new: str, messages: list[str]) -> None:
    assert old in DIGITS
    path = write(tmp_path, DIGITS.replace(old, new))
    with pytest.raises(InputError) as error:
        read_sweep(path).jobs()
    for message in [path, *messages]:
        assert message in str(error.value)


def test_a_learning_rate_without_its_optimizer_is_refused(tmp_path: Path) -> None:
    text = "\n".join(line for line in DIGITS.splitlines() if not line.startswith("adam"))
    with pytest.raises(InputError, match=r"axes\.learning_rate: no values for optimizer = 'adam'; given: sgd, rmsprop"):
        read_sweep(write(tmp_path, text))


def test_an_unknown_sweep_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(InputError, match="did you mean 'digits-grid'"):
        read_sweep("digit-grid")


def test_a_sweep_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml: there is no such sweep file"):
        read_sweep("nowhere.toml")


def test_a_file_whose_name_could_leave_the_home_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "..sly.toml"
    path.write_text(DIGITS)
    with pytest.raises(InputError, match="can't name a sweep"):
        read_sweep(str(path))


def test_set_fixes_a_setting_or_makes_it_an_axis() -> None:
    assert {job.settings()["epochs"] for job in read_sweep("digits-grid", ["epochs=3"]).jobs()} == {3}
    grown = read_sweep("digits-grid", ["seed=[0, 1]"]).jobs()
    assert len(grown) == 2 * 972
    assert {job.identity for job in read_sweep("digits-grid").jobs()} < {job.identity for job in grown}


def test_set_may_narrow_the_axis_that_another_depends_on() -> None:
    settings = [job.settings() for job in read_sweep("cifar10-grid", ["optimizer=adam"]).jobs()]
    assert len(settings) == 972 // 3
    assert {one["learning_rate"] for one in settings} == {0.001, 0.0005, 0.0001}


def test_set_takes_the_whole_list_of_a_setting_that_is_a_list() -> None:
    jobs = read_sweep("cifar10-grid", ["milestones=[5, 9]"]).jobs()
    assert {job.settings()["milestones"] for job in jobs} == {(5, 9)}
    assert len(read_sweep("cifar10-grid", ["milestones=[[5, 9], [7]]"]).jobs()) == 2 * 972
    swins = read_sweep("digits-transformers", ["model=swin", "depths=[1, 1]"]).trainings()
    assert {job.settings()["depths"] for job in swins} == {(1, 1)}


def test_a_set_makes_a_variant_and_one_that_changes_nothing_makes_none() -> None:
    base = variant(read_sweep("digits-grid").jobs())
    assert variant(read_sweep("digits-grid", ["lr_factor=0.2"]).jobs()) != base
    assert variant(read_sweep("digits-grid", ["lr_factor=0.1"]).jobs()) == base


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "not key=value"),
        ("=3", "not key=value"),
        ("epochs=", "not key=value"),
        ("epochs=abc", "'abc' is not a whole number"),
        ("epochs=58fa", "'58fa' is not a whole number"),
        ("epochs=[3", "is not a value"),
        ("epochs={a=1}", "is not a value"),
        ("epochs=1\nbits=2", "is not a value"),
        ("epochs=0", "allowed: 1 or more, up to 100000"),
        ("epohs=3", "did you mean 'epochs'"),
        ("bits=[2, 2]", "stands twice"),
        ("bits=[]", "at least one value"),
        ("optimizer=lion", "no values for optimizer = 'lion'"),
        ("data=mnist", "'mnist' is not known"),
    ],
)
def test_a_malformed_set_is_refused_with_its_place(change: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("[", r"\[")) as error:
        read_sweep("digits-grid", [change]).jobs()
    assert "--set" in str(error.value)


def test_an_axis_that_no_job_uses_is_refused_and_a_fixed_setting_is_told() -> None:
    with pytest.raises(InputError, match=r"axes\.momentum"):
        read_sweep("digits-grid", ["optimizer=adam", "momentum=[0.5, 0.9]"]).jobs()
    assert read_sweep("digits-grid", ["optimizer=adam"]).unused() == ["momentum"]
    assert read_sweep("digits-grid").unused() == []


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'title = "\xff"')
    with pytest.raises(InputError, match="can't be read"):
        read_sweep(str(path))


def test_an_axis_of_the_quantizer_without_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"axes\.outer_bits"):
        read_sweep("digits-grid", ["bits=32", "outer_bits=[4, 8]"]).jobs()


def test_the_builtin_sweeps_have_the_form_that_is_asked_of_users() -> None:
    for name in builtin_names():
        check_form(parse_toml(source_text(name), name), name)
