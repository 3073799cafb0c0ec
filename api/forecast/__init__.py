"""Forecasts on demand: histories of candles in a request, distributions in the answer."""
