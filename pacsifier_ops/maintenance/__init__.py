"""Clean-up of what old runs leave."""
