"""What goes in and out of the API as JSON."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import ConfigDict, FailFast, Field

from shared.candles import Ohlcv
from shared.messages import Message

MAX_BODY_BYTES: Final = 1 << 20
MAX_HISTORY: Final = 5_000
"""Candles in one history; the model looks at the newest ones only."""


class HistoryCandle(Ohlcv):
    """One candle of a history; a misspelt field is an error, not a surprise."""

    model_config = ConfigDict(extra="forbid")


class PredictRequest(Message):
    """Closed candles of one symbol and interval, oldest first.

    Reading stops at the first candle that is wrong, so that a body full of errors costs little.
    """

    model_config = ConfigDict(extra="forbid")

    history: Annotated[
        tuple[HistoryCandle, ...],
        FailFast(),
        Field(
            max_length=MAX_HISTORY,
            description="candles, oldest first; of more than the model needs the newest are used",
        ),
    ]


class HorizonAnswer(Message):
    """The forecast of one candle ahead."""

    step: int = Field(description="candles ahead, from 1")
    predicted_close: float = Field(description="median, in the currency of the history")
    quantiles: dict[str, float] = Field(description="level to price, rising")
    volatility: float = Field(description="standard deviation of the log return, per candle")


class PredictAnswer(Message):
    """The forecast ahead of a history."""

    predicted_close: float = Field(description="median of the first horizon")
    last_close: float = Field(description="close of the history's last candle, as given")
    latency_ms: float = Field(description="from the body received to the answer ready")
    model_version: str
    horizons: tuple[HorizonAnswer, ...] = Field(description="by step, rising")


class HealthAnswer(Message):
    """That the API serves, and which model."""

    status: str
    model_version: str
    window_length: int = Field(description="candles that a history must hold at least")


class ProbeAnswer(Message):
    """The answer to a probe, with the reason in words."""

    ok: bool
    detail: str


class FieldError(Message):
    """One rule that a request breaks."""

    field: str = Field(description="where, as in history[17].high")
    rule: str = Field(description="name of the rule, as in greater_than")
    message: str = Field(description="what was expected and what came")


class Problem(Message):
    """A problem document, RFC 9457: the one shape of every error."""

    type: str = Field(default="about:blank", description="about:blank: the status says it all")
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] = ()
