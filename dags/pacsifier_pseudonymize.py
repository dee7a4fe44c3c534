"""### Pseudonymize: give patients pseudonyms and day shifts

1. **prepare** finds the patients of a query table, or of a folder of DICOM files.
2. **pseudonymize** asks a source for the pseudonyms of the patients who are not linked yet, in batches. The source is
   the De-ID service, a mapping file, or the project's own secret. Every answer is checked before it is kept.
3. **report** counts the linked patients.

**Results.** The linkage store of the project, `new_ids_<project>.json` and `day_shift_<project>.json`, in a protected
folder below the state root; with a query table also `log_get_pseudonyms.csv`. It is not part of any data set. Linked
patients keep their pseudonyms and day shifts: a second run asks only for new patients.
"""

from airflow.sdk import DAG

from pacsifier_ops.operators.groups import pseudonymization
from pacsifier_ops.operators.params import common, form
from pacsifier_ops.pseudonyms.run import PseudonymRequest

with DAG(
    "pacsifier_pseudonymize",
    description="Give patients pseudonyms and day shifts, and keep them in the linkage store",
    doc_md=__doc__,
    schedule=None,
    params=form(PseudonymRequest),
    tags=["pacsifier", "de-identification"],
    **common("2.0.0"),
):
    pseudonymization()
