"""Names that pools, operators, policy and pages share. No Airflow here: it imports this while it starts."""

#: Pool of tasks whose PACS has no pool of its own.
COMMON_POOL = "pacsifier"
#: XCom of the step plan, where a run asks several archives: from the name of each to its first unit.
ARCHIVES = "archives"
#: Permission to see what identifies patients.
REPORTS = "PACSIFIER reports"
#: Where the pages are, below Airflow's own address.
PREFIX = "pacsifier"
