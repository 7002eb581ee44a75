"""DICOM: series as volumes, labels from SEG and RTSTRUCT, a PACS, and DICOM SEG as a result.

The libraries' own logs quote what files say, so they are silent here.
"""

import logging

for _name in ("pydicom", "highdicom", "dicomweb_client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
