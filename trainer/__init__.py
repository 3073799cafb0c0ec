"""Training, evaluation, search and back-test of the model."""
