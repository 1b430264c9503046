"""Language: what transformers, tokenizers and texts need beside the core. Importing it imports no transformers."""
