"""DICOM as it lies on a disk: files, data sets as they are encoded, character sets, UIDs (PS3.5, PS3.10)."""
