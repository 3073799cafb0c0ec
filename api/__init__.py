"""Forecasts over HTTP, by the same path as in the stream."""
