"""Closed candles into Kafka: a replayed history, or Yahoo's as they close."""
