"""### Convert: de-identified images to NIfTI, as plain folders or as a BIDS data set

1. **prepare** finds the series of a released, or de-identified, folder that are new or have changed.
2. **convert** converts each series by dcm2niix, from exactly its listed files, and checks what comes out.
3. **assemble** names the images, by the rules of BIDS if that was asked for, searches names and texts for identifiers
   of the cohort, and publishes what is clean.
4. **report** closes the account: each series is converted, no image, or failed for a reason.

A second run converts only what is new or has changed. Names that were given stay.

**Results.** The report is at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.operators.groups import conversion
from pacsifier_ops.operators.params import common, form

with DAG(
    "pacsifier_convert",
    description="Convert de-identified images to NIfTI, or to a BIDS data set",
    doc_md=__doc__,
    schedule=None,
    params=form(ConvertRequest),
    tags=["pacsifier", "dicom", "nifti"],
    **common("2.0.0"),
):
    conversion()
