"""Query tables, their rows and keys, and how values of a row match attributes."""
