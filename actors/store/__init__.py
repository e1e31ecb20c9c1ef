"""The store: everything Gatherum must not forget, as rows and content-addressed files.

`engine.py` opens the database and runs units of work, `dialect.py` and `faults.py` hold what differs between databases,
`transfer.py` and `backup.py` move a store as a whole, and one module a noun holds the statements. Those are plain
functions over a connection, so that the Database role decides what belongs into one transaction.
"""
