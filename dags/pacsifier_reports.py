"""### Reports: the text of structured reports, and the documents that objects hold

1. **prepare** looks at every file of the folder, and finds structured reports and encapsulated documents.
2. **extract** writes the text of each structured report, or the PDF of each encapsulated one, beside its object or into
   a folder apart. Dose reports and other measurements are left alone.
3. **report** closes the books: `logs/pacsifier_reports.csv`, an HTML report in the run's folder.

A text is as identified as its object is: take it out of de-identified objects where it is to be shared.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.handover.request import ReportsRequest
from pacsifier_ops.operators.groups import report_extraction
from pacsifier_ops.operators.params import RETRIES, form

with DAG(
    "pacsifier_reports",
    description="Take the text of structured reports out of their objects",
    doc_md=__doc__,
    schedule=None,
    params=form(ReportsRequest),
    tags=["pacsifier", "dicom"],
    default_args=RETRIES,
):
    report_extraction()
