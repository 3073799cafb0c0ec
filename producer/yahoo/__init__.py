"""All that knows Yahoo, yfinance and the hours of exchanges."""
