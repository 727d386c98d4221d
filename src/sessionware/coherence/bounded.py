"""Trust each cached row until ``cache_ttl`` has passed: that long, changes elsewhere go unseen."""

from .slots import Quiet


class Bounded(Quiet):
    """Every cached row is served unasked."""

    @property
    def alive(self) -> bool:
        return True

    def trusts(self, sid_hash: bytes, mark: int | None) -> bool:
        return True
