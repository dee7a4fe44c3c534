"""A PACS of our own for demonstrations and tests, and the synthetic images it holds."""
