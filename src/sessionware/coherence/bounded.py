"""Trust each cached row until ``cache_ttl`` has passed: that long, changes elsewhere go unseen."""


class Bounded:
    """Every cached row is served unasked."""

    def trusts(self) -> bool:
        return True
