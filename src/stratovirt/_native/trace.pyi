KINDS: dict[str, str | None]

def set_sinks(log: int, marker: int) -> None: ...

class TraceEvent:
    name: str
    help: str
    arguments: dict[str, str]
    enabled: bool
    def __init__(self, name: str, help: str, arguments: dict[str, str]) -> None: ...
    def __call__(self, *values: object) -> None: ...
