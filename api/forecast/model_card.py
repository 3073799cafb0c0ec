"""The model's card: its training, features and metrics, for clients."""

from __future__ import annotations

from api.forecast.bodies import ContextAnswer, DataSpanAnswer, FeatureAnswer, ModelCard
from shared.bundle import BundleConfig
from shared.context import ContextSpec
from shared.forecaster import Forecaster, OnnxForecaster


def card_of(forecaster: Forecaster, now_ms: int) -> ModelCard:
    """Return the card of a bundle's model, or of a baseline, which has no bundle."""
    config = _config_of(forecaster)
    return ModelCard(
        name=name_of(forecaster),
        model_version=forecaster.model_version,
        intervals=config.intervals if config else (),
        window_length=forecaster.window_length,
        context=_context(forecaster.context),
        features=tuple(
            FeatureAnswer(name=name, description=description)
            for name, description in (config.features.items() if config else ())
        ),
        horizons=forecaster.horizons,
        quantile_levels=forecaster.quantile_levels,
        data=_span(config) if config else None,
        metrics=config.metrics if config else {},
        age_ms=max(now_ms - config.data.last_ms, 0) if config else None,
    )


def _context(spec: ContextSpec | None) -> ContextAnswer | None:
    return ContextAnswer(**spec.model_dump()) if spec else None


def _config_of(forecaster: Forecaster) -> BundleConfig | None:
    return forecaster.config if isinstance(forecaster, OnnxForecaster) else None


def name_of(forecaster: Forecaster) -> str:
    """Return the name by which clients request a model."""
    config = _config_of(forecaster)
    return config.name if config else forecaster.model_version


def _span(config: BundleConfig) -> DataSpanAnswer:
    data = config.data
    return DataSpanAnswer(
        source=data.source,
        symbols=data.symbols,
        first_ms=data.first_ms,
        last_ms=data.last_ms,
        candles=data.candles,
    )
