"""The page of an evaluation: how often a network is right, where it errs, and how sure it is.

`tinymixnet evaluate DATA --report page.html` writes it from the results of `tinymixnet.evaluate`:

    write_evaluation([results], "page.html", photos.read, inputs=[...], force=False)

The numbers come from `evaluation_numbers.py`, the photos from `evaluation_photos.py`, the sections
from `evaluation_sections.py` and `evaluation_calibration.py`. The page runs no script.
"""
