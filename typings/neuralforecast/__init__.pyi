# The part of neuralforecast that the benchmark uses; it lives in an environment of its own.

from collections.abc import Sequence

import pandas as pd
from neuralforecast.models import NHITS

class NeuralForecast:
    def __init__(self, models: Sequence[NHITS], freq: int | str) -> None: ...
    def fit(self, df: pd.DataFrame) -> None: ...
    def cross_validation(
        self,
        df: pd.DataFrame,
        n_windows: int | None = ...,
        test_size: int | None = ...,
        step_size: int = ...,
        use_fitted: bool = ...,
    ) -> pd.DataFrame: ...
