"""DICOM files to volumes: files, their frames, series sorted by geometry, voxels."""
