"""The commands, one module each. They run the same steps as the DAGs, and return an exit code."""
