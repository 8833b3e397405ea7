"""From published JSON files to padded batches: records, conversations, tokens, images, facts, datasets, collators."""
