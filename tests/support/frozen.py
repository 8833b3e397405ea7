"""Loaded last by the server of `forking.py`: what it holds is left out of every garbage collection in a process forked from it.

Otherwise the collection that accelerate asks for behind each training would look through some million objects of torch and
transformers, and copy the memory that they lie in, which parent and child share.
"""

import gc

gc.collect()
gc.freeze()
