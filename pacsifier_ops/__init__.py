"""PACSIFIER as an Apache Airflow package: from a table of queries to verified DICOM series on disk."""

__version__ = "2.0.0"
