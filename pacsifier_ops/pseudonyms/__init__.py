"""Who becomes whom: pseudonyms and day shifts, their sources, and where they are kept."""
