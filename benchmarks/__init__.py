"""Side by side: what sessions cost, with sessionware and with others (see docs/performance.md)."""
