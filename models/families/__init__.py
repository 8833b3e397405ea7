"""The vision-language families that can be worked with, a file each. Start with `base`, which says what they may differ in.

Not here: what is the same in all of them (`models.vlm`). Outside this folder no family's modules or classes are named.
"""
