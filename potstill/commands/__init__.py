"""Commands of the shell, and how their words are read; `potstill.cli` chooses between them."""
