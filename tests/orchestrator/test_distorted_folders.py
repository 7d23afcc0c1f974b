"""Models on a folder of image files are judged under corruptions, by the command line alone, with real agents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import qsweep as api
from tests.conftest import Qsweep
from tests.workers.folders import CLASSES, described, write_folder

SWEEP = """
title = "A folder of images, distorted"
tables = ["table4", "table6"]
compare_with = "ImageNet-1K"
[fixed]
{described}
[axes]
bits = [32, 4]
[[measures]]
measure = "distortion"
corruption = ["contrast", "fog"]
severity = 3
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of the data: a set of images, and the published tree of one corruption of it."""
    write_folder(tmp_path / "data" / "some")
    for name in CLASSES:
        folder = tmp_path / "data" / "some-C" / "contrast" / "3" / name
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16), (50 * number, 90, 60)).save(folder / f"{number}.JPEG")
    return tmp_path / "data"


@pytest.fixture
def launch(data: Path) -> tuple[str, ...]:
    settings = described(data / "some", epochs=1, batch_size=8)
    del settings["bits"]
    path = data.parent / "pictures.toml"
    path.write_text(SWEEP.format(described="\n".join(f"{name} = {json.dumps(one)}" for name, one in settings.items())))
    return ("launch", str(path), "--data", str(data), "--workers", "1")


@pytest.mark.slow
def test_distortions_of_a_folder_fill_the_papers_tables(
    qsweep: Qsweep, data: Path, launch: tuple[str, ...], home: Path
) -> None:
    """Of the full-precision model alone: the tables say that they are partial."""
    answer = qsweep(*launch, "--where", "bits == 32")
    assert answer.returncode == 0, answer.stderr
    (run,) = api.results("pictures", home=home).itertuples()
    rows = api.results("pictures", "distortions", home=home).sort_values("corruption")
    assert rows[["corruption", "source", "samples"]].to_numpy().tolist() == [
        ["contrast", "published", 12],
        ["fog", "generated", 12],
    ]
    for name in ("train_loss", "train_accuracy"):
        assert rows[name].tolist() == [getattr(run, name)] * 2
    assert rows.clean_loss.tolist() == [run.test_loss] * 2
    gap = float((rows.corrupted_loss - rows.train_loss)[rows.corruption == "fog"].iloc[0])
    table_4, table_6 = answer.stdout.split("Table 6: ")
    for text in (table_4, table_6):
        assert "Partial:" in text
        assert "2 of 4 distortions are done; incomplete: fog, contrast." in text
        assert "Corrupted images generated here, with the published constants: fog." in text
        lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
        (ours,) = (line for line in lines if line[1:6] == ["some", "ResNet-18 (width 2)", "fog", "3", "this run"])
        theirs = lines[lines.index(ours) + 1]
        assert [ours[6:10], ours[-2]] == [[f"{gap:.3f}", "–", "–", "–"], "1/2"]
        assert theirs[6:10] == ["1.857", "1.180", "1.273", "1.431"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--set", "severity=1"), "some-C: contrast has no severity 1 here; get some-C again"),
        (("--set", "corruption=contrasts"), "corruption: 'contrasts' is not allowed; allowed: gaussian_noise"),
        (("--set", "measure_samples=13"), "measure_samples: 13 is not allowed; allowed: 0 (all), or 3 to 12 images"),
        ((), "contrast/3: the class 'bee' has 3 images, not 4; get some-C again"),
    ],
)
def test_what_is_wrong_with_a_distortion_is_said_before_anything_is_written(
    qsweep: Qsweep, data: Path, launch: tuple[str, ...], home: Path, change: tuple[str, ...], message: str
) -> None:
    (data / "some-C" / "contrast" / "3" / "bee" / "1.JPEG").unlink()
    refused = qsweep(*launch, *change)
    assert refused.returncode == 2
    assert message in " ".join(refused.stderr.split())
    assert not home.exists()
