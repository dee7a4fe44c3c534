"""DICOMweb (PS3.18): HTTP with a login, queries by QIDO-RS, retrieval by WADO-RS."""
