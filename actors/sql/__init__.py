"""Guarded, read-only access to the SQL databases that users register as sources.

`sources.py` is the way in; each kind of database has a reader of its own behind one small protocol, and `guard.py`
holds the pure rules that all of them share.
"""
