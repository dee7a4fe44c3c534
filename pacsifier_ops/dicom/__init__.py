"""DICOM files: reading, encoded data sets, character sets, UIDs (PS3.5, PS3.10)."""
