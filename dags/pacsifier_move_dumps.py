"""### Move dumps: what tells who the images are of goes to a folder of its own

1. **prepare** lists the info dumps of the patients, and `mapper.json` and `date_offsets.csv` beside their folders.
2. **move** moves them to the same paths below the info folder, patient by patient, and looks at every file that is
   left. Nothing is ever overwritten: where another file lies, both stay.
3. **report** lists what was moved, and tells whether anything but DICOM is left in the data folder.

**Results.** The info folder, with `moved.csv`, the list of what was moved there. The report is at *Results*
on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.handover.request import DumpsRequest
from pacsifier_ops.operators.groups import moving_dumps
from pacsifier_ops.operators.params import RETRIES, form

with DAG(
    "pacsifier_move_dumps",
    description="Move info dumps out of a data folder",
    doc_md=__doc__,
    schedule=None,
    params=form(DumpsRequest),
    tags=["pacsifier"],
    default_args=RETRIES,
):
    moving_dumps()
