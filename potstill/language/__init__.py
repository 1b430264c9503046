"""Language: texts, tokens and what is made of them. Needs the extra `potstill[language]`."""
