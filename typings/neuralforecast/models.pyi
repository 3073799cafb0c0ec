from typing import Any

class NHITS:
    def __init__(self, h: int, input_size: int, **options: Any) -> None: ...
