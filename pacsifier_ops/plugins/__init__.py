"""Modules that Airflow loads by itself. This one must not import Airflow, which loads it during its start."""
