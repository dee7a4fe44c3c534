"""Pages in Airflow's user interface, and their API: the intake of query tables, and the results of runs.

Mounted in Airflow's API server below `/pacsifier` (see `plugins.plugin`).
"""
