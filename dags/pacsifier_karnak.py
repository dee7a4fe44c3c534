"""### Karnak tags: tell a Karnak gateway who the patients of a folder are to become

1. **prepare** looks at every file of the folder, and at who every patient becomes. A patient of whom that is not said
   ends the run here, before anything is touched.
2. **tag** writes pseudonym, album and day shift into private tags of each object, in place or into a folder apart.
   Nothing else of the object changes.
3. **report** closes the books: an HTML report in the run's folder.

The objects stay identified: it is Karnak that de-identifies them. Send them there with the DAG *pacsifier_upload*. Run
it again, and nothing that is right is touched.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG, Param

from pacsifier_ops.operators.groups import karnak_tagging
from pacsifier_ops.operators.params import RETRIES, WHAT, WHERE_TO, accept_incomplete, project

WHO = "Who becomes whom"

PARAMS = {
    "in_folder": Param(
        "out",
        type="string",
        minLength=1,
        title="Folder",
        description="The folder whose objects are to be tagged, with all below it, as a path below the data root.",
        section=WHAT,
    ),
    "album_name": Param(
        type="string",
        minLength=1,
        maxLength=64,
        pattern=r"^[ -\[\]-~]+$",
        title="Album",
        description="Name of the Kheops album that Karnak is to put them into; ASCII, no backslash.",
        section=WHAT,
    ),
    "out_folder": Param(
        None,
        type=["null", "string"],
        title="Output folder",
        description="Where tagged copies go, as a path below the data root. It is made if need be. Without: in place.",
        section=WHERE_TO,
    ),
    "project": project("Its linkage says who becomes whom, unless a file of pseudonyms is given.", WHO),
    "new_ids": Param(
        None,
        type=["null", "string"],
        title="Pseudonyms",
        description="Path below the data root of a JSON file of pseudonyms by PatientID.",
        section=WHO,
    ),
    "day_shift": Param(
        None,
        type=["null", "string"],
        title="Day shifts",
        description="Path below the data root of a JSON file of days by PatientID; with a file of pseudonyms only. "
        "Without, the day shift of everybody in that file is 0.",
        section=WHO,
    ),
    "leave_out": Param(
        False,
        type="boolean",
        title="Leave out who is unknown",
        description="Objects of patients of whom nobody says who they become are left out, and the run is incomplete. "
        "Otherwise one such patient ends the run before anything is touched.",
        section=WHO,
    ),
    "accept_incomplete": accept_incomplete(),
}

with DAG(
    "pacsifier_karnak",
    description="Tag the DICOM files of a folder for a Karnak gateway",
    doc_md=__doc__,
    schedule=None,
    params=PARAMS,
    tags=["pacsifier", "dicom"],
    default_args=RETRIES,
):
    karnak_tagging()
