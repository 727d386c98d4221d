"""The applications that are compared, a module for each framework that is under them."""
