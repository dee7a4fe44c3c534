"""All of Airflow on one machine, and the demonstration."""
