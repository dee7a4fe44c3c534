"""Airflow's connections and pools."""
