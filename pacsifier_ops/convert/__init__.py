"""Conversion of de-identified images to NIfTI, as plain folders or as a BIDS data set.

| module    | what it knows                                                              |
|-----------|----------------------------------------------------------------------------|
| request   | what a run is asked for                                                    |
| steps     | prepare → convert → assemble → report                                      |
| converter | the foreign program: how it is started, ended, and what it says            |
| series    | one series: its files to the converter, its images checked and kept apart  |
| assembly  | all series together: named, searched for identifiers, published             |
| nifti     | the header of a NIfTI file                                                 |
| sidecar   | what may stand in a JSON file beside an image                              |
| rules     | which image is what in BIDS                                                |
| naming    | names that are given once                                                  |
| bids      | the files of a BIDS data set that describe it                              |
| store     | what was converted, from run to run                                        |
"""
