"""What the services agree on: messages, window, features, model, metrics, settings."""
