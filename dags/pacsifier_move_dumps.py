"""### Move dumps: move the text files that identify patients out of a folder of images

1. **prepare** lists the info dumps of the patients, and `mapper.json` and `date_offsets.csv` beside their folders.
2. **move** moves them to the same paths below the info folder, patient by patient, and inspects every other file. No
   file is overwritten: if there is another file of the same name, both stay.
3. **report** lists the moved files, and the files in the data folder that are not DICOM.

**Results.** The info folder, with `moved.csv`, the list of the moved files. The report is at *Results* on the run's
page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.handover.request import DumpsRequest
from pacsifier_ops.operators.groups import moving_dumps
from pacsifier_ops.operators.params import common, form

with DAG(
    "pacsifier_move_dumps",
    description="Move info dumps out of a data folder",
    doc_md=__doc__,
    schedule=None,
    params=form(DumpsRequest),
    tags=["pacsifier"],
    **common("2.0.0"),
):
    moving_dumps()
