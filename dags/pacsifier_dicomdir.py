"""### DICOMDIR: a file-set for CDs, DVDs, and other media (PS3.10 8)

1. **prepare** looks at every file of the folder and gives each DICOM file its name, such as
   `P0000001/ST000001/SE000001/IM000001`, and its directory records. Nothing is written before all of that is known.
2. **copy** copies the files series by series, as they are, and reads each copy again.
3. **assemble** writes the `DICOMDIR` that lists them, and packs the file-set into a zip file where that is wanted.
4. **report** closes the books; what was outside of the standard, and what could not be copied, is in the report.

Run it again and only what is not there yet is copied. A folder that holds something else is refused.

**Results.** The report is at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG, Param

from pacsifier_ops.operators.groups import file_set
from pacsifier_ops.operators.params import RETRIES, WHAT, WHERE_TO, accept_incomplete

PARAMS = {
    "in_folder": Param(
        "out",
        type="string",
        minLength=1,
        title="Folder",
        description="The folder to be handed over, with all below it, as a path below the data root.",
        section=WHAT,
    ),
    "out_folder": Param(
        "dicomdir",
        type="string",
        minLength=1,
        title="Folder for the file-set",
        description="A path below the data root. It is made if need be; what it holds must be of the same files.",
        section=WHERE_TO,
    ),
    "zip": Param(
        False,
        type="boolean",
        title="Zip file",
        description="Pack the file-set as well, into a zip file beside it.",
        section=WHERE_TO,
    ),
    "volume_size": Param(
        0,
        type="integer",
        minimum=0,
        maximum=10**9,
        title="Size of a volume",
        description="Megabytes (10^6 bytes), such as 700 for CDs or 4700 for DVDs: the files are cut into volumes "
        "VOL001, VOL002, … of that size at most, each a file-set of its own. 0 makes a single one.",
        section=WHERE_TO,
    ),
    "accept_incomplete": accept_incomplete(),
}

with DAG(
    "pacsifier_dicomdir",
    description="Make a DICOM file-set with a DICOMDIR of the files of a folder",
    doc_md=__doc__,
    schedule=None,
    params=PARAMS,
    tags=["pacsifier", "dicom"],
    default_args=RETRIES,
):
    file_set()
