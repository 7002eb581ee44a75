"""Label maps from DICOM SEG and RTSTRUCT, and DICOM SEG from label maps."""
