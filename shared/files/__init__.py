"""The reader of candle files: any form that people have becomes series of candles, or a refusal."""
