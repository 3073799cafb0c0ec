"""The stream worker: candles in, forecasts out, windows in a Faust table."""
