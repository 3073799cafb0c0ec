"""The whole system on one machine: an embedded Kafka broker, and every process beside it."""
