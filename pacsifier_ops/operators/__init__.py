"""Operators and task groups, thin: each calls a step and says in Airflow how it went."""
