"""Clean-up of the leftovers of old runs."""
