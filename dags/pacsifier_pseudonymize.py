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

from airflow.sdk import DAG, Param

from pacsifier_ops.operators.groups import pseudonymization
from pacsifier_ops.operators.params import HOW, RETRIES, WHAT, accept_incomplete, project, pseudonym_source, reading

SOURCE, LOOK = "Where pseudonyms come from", "What pseudonyms look like (only with local)"

PARAMS = {
    "project": project(
        "Whose pseudonyms these are: letters, digits, dots, dashes and underscores. A patient has another pseudonym in "
        "every project.",
        WHAT,
    ),
    "queryfile": Param(
        None,
        type=["null", "string"],
        title="Query table",
        description="A table with the column PatientID: the id of a request (req-…), or the path of a csv or xlsx file "
        "below the data root.",
        section=WHAT,
    ),
    **reading(),
    "in_folder": Param(
        None,
        type=["null", "string"],
        title="Folder",
        description="Instead of the table: a folder of DICOM files, such as the output folder of an extraction, as a "
        "path below the data root.",
        section=WHAT,
    ),
    **pseudonym_source(SOURCE),
    "shift_days": Param(
        True,
        type="boolean",
        title="Move dates",
        description="Give every patient a day shift from -30 to 30, never 0. With de-id the service decides.",
        section=SOURCE,
    ),
    "prefix": Param(
        "P",
        type="string",
        maxLength=32,
        title="Prefix",
        description="Begins every pseudonym.",
        section=LOOK,
    ),
    "length": Param(
        10,
        type="integer",
        minimum=4,
        maximum=40,
        title="Length",
        description="Characters after the prefix. Two of 100,000 patients have the same with a probability of 2 in "
        "100,000 at 10 characters; if they do, the run stops and says so.",
        section=LOOK,
    ),
    "alphabet": Param(
        "23456789BCDFGHJKMNPQRSTVWXZ",
        type="string",
        pattern="^[0-9A-Za-z]{2,36}$",
        title="Alphabet",
        description="The characters to choose from.",
        section=LOOK,
    ),
    "leave_out": Param(
        False,
        type="boolean",
        title="Leave out who is unknown",
        description="A patient of whom the source says nothing usable does not keep the others of the batch from being "
        "linked. The run is incomplete all the same.",
        section=HOW,
    ),
    "accept_incomplete": accept_incomplete(),
}

with DAG(
    "pacsifier_pseudonymize",
    description="Give patients pseudonyms and day shifts, and keep who became whom apart",
    doc_md=__doc__,
    schedule=None,
    params=PARAMS,
    tags=["pacsifier", "de-identification"],
    default_args=RETRIES,
):
    pseudonymization()
