"""Random requests from many clients to many workers, and what their answers prove."""
