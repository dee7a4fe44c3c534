"""Operators and task groups. Each operator calls one step of a job, and gives Airflow the result."""
