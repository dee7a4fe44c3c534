"""Pages in Airflow's user interface, and the API under them: taking requests in, and the results of runs.

Mounted in Airflow's API server below `/pacsifier` (see `plugins.plugin`).
"""
