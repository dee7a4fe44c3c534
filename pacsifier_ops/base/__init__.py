"""Basics for all rooms: errors, files, settings, windows, PACS nodes, identities."""
