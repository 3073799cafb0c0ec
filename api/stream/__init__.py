"""The stream as clients see it: what the topics bring, kept in memory and sent as events."""
