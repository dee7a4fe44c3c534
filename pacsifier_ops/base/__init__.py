"""What everything may use: errors, files that are whole, settings, windows, PACS nodes, who and what is the same."""
