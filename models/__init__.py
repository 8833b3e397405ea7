"""One frozen vision-language base, named LoRA adapters over it, scalar heads, and the roles that use them."""

import logging

# PEFT imports bitsandbytes, which tells every CPU user at import about an optional kernel that nothing here needs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
