"""Upload: sends a folder of DICOM files to a PACS by C-STORE."""
