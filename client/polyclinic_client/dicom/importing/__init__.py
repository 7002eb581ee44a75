"""From DICOM series to a data folder: what becomes what, under which names, and in which split."""
