"""### Extract: from a query table to verified DICOM series on disk, or at another node

1. **prepare** reads and checks the whole query table, and makes sure that the PACS answers.
2. **find** asks the PACS for the series of each row, and filters its answers again.
3. **plan** merges them without duplicates; a cohort above the allowed size stops here, before any image is fetched.
4. **retrieve** fetches each series and compares it with what the PACS lists; missing images are asked for once more.
   Or **move** has the PACS send each series to another node, and accounts for what that node took.
5. **report** closes the books: `logs/pacsifier_log.csv` in the output folder, an HTML report in the run's folder.

Run it again over the same output folder and only what is missing or damaged is fetched.
"""

from airflow.sdk import DAG, Param

from pacsifier_ops.operators.dicom import DicomFindOperator, DicomMoveOperator, DicomRetrieveOperator
from pacsifier_ops.operators.extract import (
    ExtractPlanOperator,
    ExtractPrepareOperator,
    ExtractReportOperator,
    ExtractRouteOperator,
)
from pacsifier_ops.operators.params import RETRIES, accept_incomplete, node_params

PARAMS = {
    "queryfile": Param(
        "queries/demo.csv",
        type="string",
        minLength=1,
        title="Query table",
        description="A csv or xlsx file, as a path below the data root; or the id of a request already taken in.",
    ),
    "out_directory": Param(
        "out",
        type="string",
        minLength=1,
        title="Output folder",
        description="A path below the data root. It is made if need be.",
    ),
    "retrieve": Param(
        "save",
        enum=["save", "move", "none"],
        title="Images",
        description="save: fetch them. move: have the PACS send them to another node. none: only find the series.",
    ),
    "destination": Param(
        None,
        type=["null", "string"],
        title="Destination of move",
        description="Id of a connection of type dicom. The PACS sends to its AE title, and it is asked what it holds "
        "before and after. Empty: the PACS sends to the move_aet of its connection, and only its counts tell.",
    ),
    "resend": Param(
        False,
        type="boolean",
        title="Move again",
        description="With move: have sent what the destination has confirmed before as well.",
    ),
    "info": Param(
        True,
        type="boolean",
        title="Info dumps",
        description="Write a csv with header values beside each series' folder.",
    ),
    **node_params(),
    "method": Param(
        None,
        enum=[None, "auto", "get", "move"],
        title="Method",
        description="C-GET, C-MOVE to our receiver, or what fits (auto). Empty: as the connection says.",
    ),
    "max_series": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Largest cohort",
        description="Stop before fetching if more series are found. Empty: as the connection says.",
    ),
    "strict": Param(
        False,
        type="boolean",
        title="Strict",
        description="Any bad row stops the run before the PACS is asked. Otherwise the good rows run.",
    ),
    "accept_incomplete": accept_incomplete(),
}

with DAG(
    "pacsifier_extract",
    description="Find and retrieve the series of a query table from a PACS",
    doc_md=__doc__,
    schedule=None,
    params=PARAMS,
    tags=["pacsifier", "dicom"],
    default_args=RETRIES,
):
    prepare = ExtractPrepareOperator(task_id="prepare")
    find = DicomFindOperator.partial(task_id="find").expand(batch=prepare.output)
    plan = ExtractPlanOperator(task_id="plan", trigger_rule="all_done_min_one_success")
    route = ExtractRouteOperator(task_id="route")
    retrieve = DicomRetrieveOperator.partial(task_id="retrieve").expand(unit=plan.output)
    move = DicomMoveOperator.partial(task_id="move").expand(unit=plan.output)
    report = ExtractReportOperator(task_id="report", trigger_rule="all_done")

    prepare >> find >> plan >> [retrieve, move] >> report
    prepare >> route >> [retrieve, move]
