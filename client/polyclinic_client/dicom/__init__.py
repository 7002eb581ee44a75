"""DICOM: series as volumes, labels from SEG and RTSTRUCT, a PACS, and DICOM SEG as a result."""
