"""### Extract: from a query table to verified DICOM series on disk, or at another node

1. **prepare** reads and checks the whole query table, and checks that the PACS answers.
2. **find** queries the PACS for the series of each row, and filters its answers again.
3. **plan** merges the series without duplicates. A cohort above the limits of the connection stops here, before any
   image is fetched, or waits in **approve** for a person's approval.
4. **retrieve** fetches each series and compares it with the list of the PACS. Missing images are requested once more.
   Or **move** lets the PACS send each series to another node, and counts the images that the node accepted.
5. **report** closes the account: `logs/pacsifier_log.csv` in the output folder, an HTML report in the run's folder.

**To start a run**, choose the query table at *Extract* in the menu. It is checked at once, and neither its name nor its
content reaches Airflow. Or trigger this DAG with the path of a table below the data root.

**Results.** Images and `logs/pacsifier_log.csv` are in the output folder. Progress and report are at *Results* on the
run's page, and behind *Run and report* on each of its tasks. The run fails unless everything was found and fetched, or
*Accept incomplete* is set. A second run into the same output folder fetches only missing and damaged images.
"""

from airflow.sdk import DAG

from pacsifier_ops.extract.run import Request
from pacsifier_ops.operators.groups import extraction
from pacsifier_ops.operators.params import common, form

with DAG(
    "pacsifier_extract",
    description="Find and retrieve the series of a query table from a PACS",
    doc_md=__doc__,
    schedule=None,
    # Runs that wait for a retrieval window count as active, and must not prevent others from starting. Pools and leases
    # limit the load of all runs.
    max_active_runs=100,
    params=form(Request),
    tags=["pacsifier", "dicom"],
    **common("2.0.0"),
):
    extraction()
