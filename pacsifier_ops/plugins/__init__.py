"""What Airflow loads by itself. Nothing here may import Airflow: it imports this while it starts."""
