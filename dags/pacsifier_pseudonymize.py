"""### Pseudonymize: who becomes whom, and by how many days dates are moved

1. **prepare** finds out whose pseudonyms are wanted: the patients of a query table, or of a folder of DICOM files.
2. **pseudonymize** asks the source for those that the project has not linked yet, in batches: the De-ID service, a
   mapping file, or the project's own secret. Every answer is checked before anything is kept.
3. **report** tells who is linked now, in counts.

**Results.** The linkage store of the project, `new_ids_<project>.json` and `day_shift_<project>.json`, in its folder
below the state root, which is protected; with a query table also `log_get_pseudonyms.csv`. It is no part of any data
set.
Who is linked once keeps pseudonym and day shift: run it again and only new patients are asked for.
"""

from airflow.sdk import DAG

from pacsifier_ops.operators.groups import pseudonymization
from pacsifier_ops.operators.params import RETRIES, form
from pacsifier_ops.pseudonyms.run import PseudonymRequest

with DAG(
    "pacsifier_pseudonymize",
    description="Give patients pseudonyms and day shifts, and keep who became whom apart",
    doc_md=__doc__,
    schedule=None,
    params=form(PseudonymRequest),
    tags=["pacsifier", "de-identification"],
    default_args=RETRIES,
):
    pseudonymization()
