"""Service in the style that such projects often begin with; ``benchmarks/api.py`` compares it.

pandas for features, a scikit-learn scaler, PyTorch at batch 1, a synchronous FastAPI route with
pydantic bodies, one uvicorn worker with uvicorn's defaults. Its LSTM has the size that is common
in them: two layers of 64 over 60 steps.
"""

from __future__ import annotations

import sys
import time
from typing import Final

import numpy as np
import pandas as pd
import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sklearn.preprocessing import StandardScaler

STEPS: Final = 60
FEATURES: Final = ("log_return", "sma_ratio", "rsi", "log_volume", "range", "volatility")


class Candle(BaseModel):
    """One candle."""

    open: float
    high: float
    low: float
    close: float
    volume: float


class Request(BaseModel):
    """A history, oldest candle first."""

    history: list[Candle]


class Answer(BaseModel):
    """The forecast."""

    predicted_close: float
    last_close: float
    latency_ms: float


class Lstm(torch.nn.Module):
    """Two layers of 64, and the next log return."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(len(FEATURES), 64, 2, batch_first=True)
        self.head = torch.nn.Linear(64, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the next log return, (B, 1), of (B, L, F)."""
        hidden: torch.Tensor = self.head(self.lstm(inputs)[0][:, -1])
        return hidden


def features_of(candles: pd.DataFrame) -> pd.DataFrame:
    """Return the features of each candle."""
    close = candles["close"]
    change = close.diff()
    gain = change.clip(lower=0).rolling(14).mean()
    loss = (-change.clip(upper=0)).rolling(14).mean()
    log_return = pd.Series(np.log((close / close.shift(1)).to_numpy()))
    return pd.DataFrame(
        {
            "log_return": log_return,
            "sma_ratio": close / close.rolling(20).mean() - 1,
            "rsi": 100 - 100 / (1 + gain / loss.replace(0, 1e-9)),
            "log_volume": np.log(candles["volume"] + 1),
            "range": (candles["high"] - candles["low"]) / close,
            "volatility": log_return.rolling(20).std(),
        }
    )


def make_app() -> FastAPI:
    """Return the service, its weights and scaler made up."""
    torch.manual_seed(0)
    model = Lstm().eval()
    rng = np.random.default_rng(0)
    scaler = StandardScaler().fit(
        pd.DataFrame(rng.normal(size=(500, len(FEATURES))), columns=list(FEATURES))
    )
    app = FastAPI()

    @app.post("/predict")
    def predict(request: Request) -> Answer:
        started = time.perf_counter()
        candles = pd.DataFrame([candle.model_dump() for candle in request.history])
        features = features_of(candles).dropna()
        if len(features) < STEPS:
            raise HTTPException(422, f"at least {STEPS} candles after the warm-up are needed")
        scaled = scaler.transform(features.tail(STEPS))
        with torch.no_grad():
            inputs = torch.tensor(scaled, dtype=torch.float32).unsqueeze(0)
            log_return = float(model(inputs)[0, 0])
        last_close = float(candles["close"].iloc[-1])
        return Answer(
            predicted_close=last_close * float(np.exp(log_return)),
            last_close=last_close,
            latency_ms=(time.perf_counter() - started) * 1e3,
        )

    return app


def main() -> None:
    """Serve on loopback at the port that is given."""
    uvicorn.run(make_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
