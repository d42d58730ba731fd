"""The prepared format: reading, batching, and what turns photographs into samples."""
