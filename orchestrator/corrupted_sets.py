"""Whether the corrupted images that a selection's distortions take can be had: asked before anything is written."""

from __future__ import annotations

from qsweep.db.home import Home
from qsweep.orchestrator.selection import Selection
from qsweep.sweeps.measures import Distortion


def check_corruptions(home: Home, selection: Selection) -> None:
    """Raise InputError for a published file that is none, and where images can't be corrupted. Changes nothing.

    Trees of corrupted images are held against the test images where these are listed: by `workers.probe`.
    """
    asked = {
        (job.training.data, job.measure.corruption, job.measure.severity, job.measure.corruption_seed)
        for job in selection.chosen
        if isinstance(job.measure, Distortion)
    }
    if not asked:
        return
    from qsweep.workers.corruptions.files import Drawn, corrupted_files  # here: they import numpy
    from qsweep.workers.corruptions.libraries import check_libraries
    from qsweep.workers.corruptions.sets import FROST, check_labels, frost_textures, open_file, published_file

    generated, checked = set(), set()
    for data, corruption, severity, seed in sorted(asked, key=lambda one: (one[0].name, *one[1:])):
        if data.streamed:
            if isinstance(corrupted_files(data, home.data, corruption, severity, seed=seed), Drawn):
                generated.add(corruption)
            continue
        path = published_file(data, home.data, corruption)
        if path is None:
            generated.add(corruption)
        elif path not in checked:
            checked.add(path)
            open_file(path, data)
            check_labels(path.parent, data)
    if generated:
        check_libraries()
    if FROST in generated:
        frost_textures(home.data)
