"""Language: text, tokenizers, causal models, and who writes the sequences that are taught on."""
