"""One frozen vision-language base, named LoRA adapters over it, scalar heads, and the roles that use them."""
