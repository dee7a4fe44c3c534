"""A PACS and a De-ID service for demonstrations and tests, and synthetic images."""
