#!/bin/sh
# Prints a Python that Gatherum runs on (3.11 to 3.13), preferring plain python3. Prints python3 where there is none:
# install-system.sh then says what is missing.
set -eu
for name in python3 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null 2>&1 &&
        "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        command -v "$name"
        exit 0
    fi
done
echo python3
