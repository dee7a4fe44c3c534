"""Import this module first in a process that converts objects, so that it loads nothing that it does not use.

Compressed pixels are decoded in processes of their own, see `deid.pixels` and `deid.contact`.
"""

from pacsifier_ops.base.start import start_light

start_light()
