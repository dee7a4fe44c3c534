"""What old runs leave behind."""
