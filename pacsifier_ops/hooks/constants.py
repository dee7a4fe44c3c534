"""Names shared by pools, operators, policy and pages.

This module imports no Airflow, because Airflow imports it during its start.
"""

#: Pool of tasks whose PACS has no pool of its own.
COMMON_POOL = "pacsifier"
#: Pool of tasks that convert images: each keeps a processor busy.
CONVERSION_POOL = "conversion"
#: XCom of the first step of a job, and its keys: the connections of the nodes that it talks to, and its urgency.
NODES = "nodes"
URGENCY = "urgency"
#: Key of the first: which connections give the images of others (`fetch_from`), by the names of these.
GIVERS = "givers"
#: XCom of a step that makes units: how many items each has, on average.
ITEMS = "items"
#: XCom of the step plan, where a run queries several archives: the first unit of each, by name.
ARCHIVES = "archives"
#: Names of the operators that are `TalksToNode`: their tasks run in the pool of a PACS.
POOLED = (
    "DicomFindOperator",
    "DicomMoveOperator",
    "DicomProbeOperator",
    "DicomRetrieveOperator",
    "DicomStoreOperator",
)
#: Permission to see data that identify patients.
REPORTS = "PACSIFIER reports"
#: Prefix of the ids of our DAGs.
OUR_PREFIX = "pacsifier_"
#: The DAG that sends messages.
MESSAGES = "pacsifier_messages"
#: Path of the pages below Airflow's own address.
PREFIX = "pacsifier"
