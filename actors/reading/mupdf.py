"""PyMuPDF, imported without the companions it brings along.

PyMuPDF 2.0 imports its modules for page layout where they are installed, and it installs them: an inference runtime
with models, 76 MB and up to a second more in every process, and nothing of it is used here.
"""

from __future__ import annotations

import sys

__all__ = ["pymupdf"]

# What is None in `sys.modules` cannot be imported.
_UNUSED = [name for name in ("pymupdf.layout", "pymupdf4llm") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_UNUSED))  # type: ignore[arg-type]
import pymupdf  # noqa: E402

for _name in _UNUSED:
    del sys.modules[_name]
