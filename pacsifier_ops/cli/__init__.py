"""The commands, one module each: arguments in, the same steps as the DAGs, an exit code out."""
