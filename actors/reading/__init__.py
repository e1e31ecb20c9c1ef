"""Pure functions that turn a PDF into pages, chunks and mentions. They run inside tasks and know nothing of Ray.

`PIPELINE` numbers what they produce: a reading is stored under it, so raise it whenever the same file would be read
differently than before.
"""

from __future__ import annotations

PIPELINE = 4
