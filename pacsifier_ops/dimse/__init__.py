"""Communication with a PACS: associations, C-FIND, C-GET, C-MOVE, C-STORE, and the receiver (PS3.4, PS3.7, PS3.8)."""
