"""The producer: publishes closed candles to Kafka, replayed from files or polled from Yahoo."""
