"""### Extract: from a query table to verified DICOM series on disk, or at another node

1. **prepare** reads and checks the whole query table, and makes sure that the PACS answers.
2. **find** asks the PACS for the series of each row, and filters its answers again.
3. **plan** merges them without duplicates. A cohort above the limits of the connection stops here, before any image is
   fetched, or waits in **approve** for a person's word.
4. **retrieve** fetches each series and compares it with what the PACS lists; missing images are asked for once more.
   Or **move** has the PACS send each series to another node, and accounts for what that node took.
5. **report** closes the books: `logs/pacsifier_log.csv` in the output folder, an HTML report in the run's folder.

**To start one**, hand the query table in at *Extract* in the menu: it is checked at once, and neither its name
nor its content reaches Airflow. Or trigger this DAG with the path of a table below the data root.

**Results.** Images and `logs/pacsifier_log.csv` are in the output folder. Progress and report are at *Results* on the
run's page, and behind *Run and report* on each of its tasks. The run fails unless everything was found and fetched, or
incomplete was accepted. Run it again over the same output folder and only what is missing or damaged is fetched.
"""

from airflow.sdk import DAG, Param

from pacsifier_ops.operators.groups import extraction
from pacsifier_ops.operators.params import (
    ARCHIVES,
    HOW,
    RETRIES,
    WHAT,
    WHERE_TO,
    accept_incomplete,
    method,
    node_params,
    patience,
    reading,
    search,
    window,
)
from pacsifier_ops.state.tree import NAMINGS

PARAMS = {
    "queryfile": Param(
        type="string",
        minLength=1,
        title="Query table",
        description="The id of a request from the page Extract (req-…), or the path of a csv or xlsx file below the "
        "data root, such as queries/demo.csv. What is typed here stays in Airflow: where a path could identify "
        "somebody, give an id.",
        section=WHAT,
    ),
    **reading(),
    "retrieve": Param(
        "save",
        enum=["save", "move", "none"],
        values_display={
            "save": "save: fetch them to the output folder",
            "move": "move: have the PACS send them to another node",
            "none": "none: only find the series, and report",
        },
        title="Images",
        description="What happens to the images of the series that are found.",
        section=WHAT,
    ),
    **node_params(description=ARCHIVES, several=True),
    "search": search(),
    "method": method(),
    "window": window(),
    "out_directory": Param(
        "out",
        type="string",
        minLength=1,
        title="Output folder",
        description="A path below the data root; made if need be. Series, info dumps and logs/pacsifier_log.csv go "
        "there. Run again over the same folder and only what is missing is fetched.",
        section=WHERE_TO,
    ),
    "info": Param(
        True,
        type="boolean",
        title="Info dumps",
        description="Write a csv with header values beside each series' folder.",
        section=WHERE_TO,
    ),
    "destination": Param(
        None,
        type=["null", "string"],
        title="Destination of move",
        description="Only with move: id of a connection of type dicom. The PACS sends to its AE title, and it is asked "
        "what it holds before and after. Empty: the PACS sends to the move_aet of its connection, and only its counts "
        "tell.",
        section=WHERE_TO,
    ),
    "resend": Param(
        False,
        type="boolean",
        title="Move again",
        description="Only with move: have sent what the destination has confirmed before as well.",
        section=WHERE_TO,
    ),
    "max_series": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=10**9,
        title="Largest cohort",
        description="Series that may be fetched without a person's word; what is there already does not count. Empty: "
        "as the connection says, whose other limits hold as well.",
        section=HOW,
    ),
    "approval": Param(
        False,
        type="boolean",
        title="Ask above the limits",
        description="A cohort above the limits of the connection waits, before anything is fetched, for a person to "
        "approve it. Otherwise it ends the run.",
        section=HOW,
    ),
    "patience": patience(HOW),
    "accept_patient_id_of": Param(
        None,
        enum=[None, "archive"],
        values_display={"null": "as table or connection say", "archive": "archive: what the PACS answers counts"},
        title="Whose PatientID",
        description="Only with save: images may hold another PatientID than the PACS gives for their series, as where "
        "a patient was corrected and the files were not. Empty: they go to quarantine, and the series is incomplete, "
        "unless the connection or the row says otherwise.",
        section=HOW,
    ),
    "names": Param(
        None,
        enum=[None, *NAMINGS],
        values_display={
            "null": "as the folder has them, else uid",
            "uid": "uid: 1.2.3.dcm",
            "pacsifier": "pacsifier: CT.1.2.3, and its folders",
        },
        title="Names",
        description="How a new output folder names files and folders. Empty: as it was begun, else by UID.",
        section=HOW,
    ),
    "strict": Param(
        False,
        type="boolean",
        title="Strict",
        description="Any bad row stops the run before the PACS is asked. Otherwise the good rows run.",
        section=HOW,
    ),
    "accept_incomplete": accept_incomplete(),
}

with DAG(
    "pacsifier_extract",
    description="Find and retrieve the series of a query table from a PACS",
    doc_md=__doc__,
    schedule=None,
    # Runs that wait for a retrieval window count, and must not keep others from starting. What runs costs is bounded by
    # pools and leases.
    max_active_runs=100,
    params=PARAMS,
    tags=["pacsifier", "dicom"],
    default_args=RETRIES,
):
    extraction()
