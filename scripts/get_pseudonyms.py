#!/usr/bin/env python3
"""What `python get_pseudonyms.py` of PACSIFIER runs: the command beside it, whichever Python runs this."""

import os
import sys

COMMAND = os.path.join(os.path.dirname(os.path.realpath(__file__)), "pacsifier-get-pseudonyms")
os.execv(COMMAND, [COMMAND, *sys.argv[1:]])
