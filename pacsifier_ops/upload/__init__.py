"""Upload: a folder of DICOM files to a PACS."""
