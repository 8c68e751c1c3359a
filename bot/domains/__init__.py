"""Domains that ship inside the package: `bank` and `shop`. Data, except for their `actions.py`."""
