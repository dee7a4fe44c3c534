"""Tools for folders of DICOM files that are to be handed over, each with steps of its own over a run's folder."""
