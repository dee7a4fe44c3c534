"""From a query table to checked rows, and from a row to what a PACS is asked and must answer."""
