"""### Reports: extract the text of structured reports, and encapsulated documents

1. **prepare** inspects every file of the folder, and finds structured reports and encapsulated documents.
2. **extract** writes the text of each structured report, or the PDF or XML file of each encapsulated document, beside
   its object or into an output folder. Dose reports and other measurements are left out.
3. **report** closes the account: `logs/pacsifier_reports.csv`, an HTML report in the run's folder.

A text identifies patients if its object does. To share texts, extract them from de-identified objects.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.handover.request import ReportsRequest
from pacsifier_ops.operators.groups import report_extraction
from pacsifier_ops.operators.params import common, form

with DAG(
    "pacsifier_reports",
    description="Extract the text of structured reports, and encapsulated documents",
    doc_md=__doc__,
    schedule=None,
    params=form(ReportsRequest),
    tags=["pacsifier", "dicom"],
    **common("2.0.0"),
):
    report_extraction()
