"""HTTP: connections, access, limits, problems and logs; knows neither the model nor Kafka."""
