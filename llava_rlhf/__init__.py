"""Factually Augmented RLHF for LLaVA (arXiv 2309.14525): settings, loops, checkpoints and the programs that run them.

What lives elsewhere: records and batches in ``data_utils``, networks in ``models``. Nothing is re-exported here, so that
importing one module never loads another.
"""

import logging

# transformers and PEFT import bitsandbytes, which tells every CPU user about an optional kernel that nothing here needs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
