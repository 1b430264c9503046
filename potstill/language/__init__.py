"""Language models: data, sequences, sampling, vocabularies and runs. Everything in here may import transformers."""
