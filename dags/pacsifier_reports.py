"""### Reports: the text of structured reports, and the documents that objects hold

1. **prepare** looks at every file of the folder, and finds structured reports and encapsulated documents.
2. **extract** writes the text of each structured report, or the PDF of each encapsulated one, beside its object or into
   a folder apart. Dose reports and other measurements are left alone.
3. **report** closes the books: `logs/pacsifier_reports.csv`, an HTML report in the run's folder.

A text is as identified as its object is: take it out of de-identified objects where it is to be shared.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG, Param

from pacsifier_ops.operators.groups import reporting
from pacsifier_ops.operators.params import RETRIES, WHAT, WHERE_TO, accept_incomplete

PARAMS = {
    "data_folder": Param(
        "out",
        type="string",
        minLength=1,
        title="Folder",
        description="The folder whose reports are wanted, with all below it, as a path below the data root.",
        section=WHAT,
    ),
    "out_folder": Param(
        None,
        type=["null", "string"],
        title="Folder for the texts",
        description="A path below the data root. It is made if need be. Without it, texts lie beside their objects.",
        section=WHERE_TO,
    ),
    "overwrite": Param(
        False,
        type="boolean",
        title="Overwrite",
        description="Replace files that have the name of a text and hold something else.",
        section=WHERE_TO,
    ),
    "accept_incomplete": accept_incomplete(),
}

with DAG(
    "pacsifier_reports",
    description="Take the text of structured reports out of their objects",
    doc_md=__doc__,
    schedule=None,
    params=PARAMS,
    tags=["pacsifier", "dicom"],
    default_args=RETRIES,
):
    reporting()
