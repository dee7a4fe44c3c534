"""What Airflow loads by itself. Nothing here may import Airflow: it imports this while it starts."""

#: Pool of tasks whose PACS has no pool of its own.
COMMON_POOL = "pacsifier"
#: XCom of the step plan, where a run asks several archives: from the name of each to its first unit.
ARCHIVES = "archives"
#: Permission to see what identifies patients.
REPORTS = "PACSIFIER reports"
