"""### Anonymize: de-identify a folder of DICOM files (PS3.15 Annex E)

1. **prepare** looks at every file of the folder and finds out who becomes whom. Sources that disagree end the run here,
   before anything is touched.
2. **deidentify** does it, series by series: each object is read, judged, de-identified and written, and the result
   searched for what it must not hold. What is not certain goes to quarantine with a reason.
3. **report** closes the books: every object is de-identified, excluded by a rule, or in quarantine. It writes the
   manifest, the HTML report with contact sheets to look for burned-in text, and, apart from the data set, who became
   whom.

Run it again and only what is not settled is done.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG, Param

from pacsifier_ops.operators.groups import deidentification
from pacsifier_ops.operators.params import RETRIES, WHAT, WHERE_TO, accept_incomplete, identity, project

WHO, RULES = "Who becomes whom", "What is kept"

PARAMS = {
    "in_folder": Param(
        "out",
        type="string",
        minLength=1,
        title="Folder",
        description="The folder to be de-identified, with all below it, as a path below the data root.",
        section=WHAT,
    ),
    "delete_identifiable": Param(
        True,
        type="boolean",
        title="Delete identifiable",
        description="Leave out objects that likely show who it is, such as screen saves and dose reports. Otherwise "
        "they go to quarantine; into the data set they never go.",
        section=WHAT,
    ),
    "out_folder": Param(
        "deidentified",
        type="string",
        minLength=1,
        title="Output folder",
        description="Where the results go, as a path below the data root. It is made if need be. The folder itself: in "
        "place, and the originals are gone afterwards.",
        section=WHERE_TO,
    ),
    "keep_patient_dir_names": Param(
        False,
        type="boolean",
        title="Keep names of patients' folders",
        description="Only for folders whose names tell nobody who it is: they are not looked at.",
        section=WHERE_TO,
    ),
    "project": project("Its linkage says who becomes whom, and its secret for whom no other source does.", WHO),
    "identity": identity(WHO),
    "linked_only": Param(
        False,
        type="boolean",
        title="Linked patients only",
        description="Objects of patients of whom no source says anything go to quarantine. Otherwise the project's "
        "secret says who they become.",
        section=WHO,
    ),
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
        description="Path below the data root of a JSON file of days by PatientID.",
        section=WHO,
    ),
    "profile": Param(
        "default",
        type="string",
        minLength=1,
        title="Profile",
        description="default (the basic profile, with dates moved and descriptions cleaned), basic, research or "
        "pacsifier, options of PS3.15 upon it after plus signs, such as pacsifier+device, or the path of a YAML file "
        "below the data root.",
        section=RULES,
    ),
    "devices": Param(
        None,
        type=["null", "string"],
        title="Device catalogue",
        description="Path below the data root of a JSON file that says what to black out of which images.",
        section=RULES,
    ),
    "remove_private_tags": Param(
        False,
        type="boolean",
        title="Remove private tags",
        description="No private element stays, whatever profile says.",
        section=RULES,
    ),
    "fuzz_acq_dates": Param(
        False,
        type="boolean",
        title="Fuzz acquisition dates",
        description="Dates that would stay as they are, are moved by the patient's days.",
        section=RULES,
    ),
    "accept_incomplete": accept_incomplete(),
}

with DAG(
    "pacsifier_anonymize",
    description="De-identify the DICOM files of a folder",
    doc_md=__doc__,
    schedule=None,
    params=PARAMS,
    tags=["pacsifier", "de-identification"],
    default_args=RETRIES,
):
    deidentification()
