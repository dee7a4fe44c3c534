"""Searches files of any job for identifiers of the cohort whose data set the job works on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pacsifier_ops.base.errors import TreeError
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.study.gate import Gate
from pacsifier_ops.study.project import Study
from pacsifier_ops.study.release import DEIDENTIFIED_FOLDER, RELEASED_FOLDER, folder_of, released_of
from pacsifier_ops.study.searched import BLOCKING, WAIVABLE

#: Searches files, given their folder, their paths and whether to end; yields the findings of each, without values.
FileSearch = Callable[[Path, Iterable[str], Callable[[], bool]], Iterator[tuple[str, Sequence[str]]]]


def search_of(run: Run, data_set: Path) -> FileSearch:
    """Return a search for the identifiers of all patients of a data set.

    In a study, it is that of the gate. A finding that a person has waived for the release is none.

    Args:
        run: the run of the job.
        data_set: the released or de-identified folder, or one in it.

    Raises:
        TreeError: this state root does not know whose data it is.
    """
    waived = False
    if run.whole.folder != run.folder:
        gate = Gate.of(run.whole, folder_of(Study.of(run.whole), DEIDENTIFIED_FOLDER))
        released = released_of(run.whole)
        waived = released is not None and released.waived
    else:
        gate = Gate.of(None, _made(data_set.resolve()))

    def search(
        folder: Path, paths: Iterable[str], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[str, Sequence[str]]]:
        for path, findings in gate.each(folder, paths, cancelled):
            kinds = (BLOCKING,) if waived else (BLOCKING, WAIVABLE)
            yield path, [finding for kind in kinds for finding in findings.get(kind, ())]

    return search


def _made(data_set: Path) -> Path:
    """Return the folder that a de-identification has made, for a folder of its objects.

    Raises:
        TreeError: it is not known.
    """
    from pacsifier_ops.deid.run import store_of

    for folder in (data_set, *data_set.parents):
        with suppress(TreeError):
            if store_of(folder):
                return folder
            if folder.name == RELEASED_FOLDER and store_of(beside := folder.with_name(DEIDENTIFIED_FOLDER)):
                return beside
    raise TreeError(
        "this state root has no record of the patients of in_folder, so nothing made of it can be searched for their "
        "identifiers; work where it was de-identified"
    )
