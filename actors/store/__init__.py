"""The store: everything Gatherum must not forget, as rows and content-addressed files.

`engine.py` opens the database and hands out units of work, `dialect.py` holds what differs between databases, and one
module a noun holds the statements. They are plain functions over a connection, so that the Database role decides what
belongs into one transaction.
"""
