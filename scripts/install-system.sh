#!/bin/sh
# Sees to what pip cannot install: a Python with venv, and Tesseract with its English model. As root on Debian or Ubuntu
# it installs what is missing; elsewhere it says what to install, and changes nothing. With `test` it sees to the database
# servers that the tests start for themselves; without them those tests are skipped.
#   usage: install-system.sh PYTHON [test]
set -eu
python=$1
purpose=${2:-}

fail() {
    echo "gatherum: $1" >&2
    exit 1
}

install() {
    echo "Installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y -qq --no-install-recommends $missing
}

can_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1
}

missing=""
if [ "$purpose" = test ]; then
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null 2>&1 ||
        missing="$missing postgresql"
    command -v mariadbd >/dev/null 2>&1 || [ -x /usr/sbin/mariadbd ] || missing="$missing mariadb-server"
    [ -n "$missing" ] || exit 0
    if ! can_install; then
        echo "gatherum: tests on database servers will be skipped. They need:$missing" >&2
        exit 0
    fi
    # The packages start a server each; the tests start their own. This file forbids it, and goes when they are in.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    install || echo "gatherum: they could not be installed; tests on database servers will be skipped" >&2
    exit 0
fi

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
    fail "Python 3.11, 3.12 or 3.13 is needed, and $python is not one. Say where it is: make PYTHON=/path/to/python3.12 install"

"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    missing="$missing $("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"
command -v tesseract >/dev/null 2>&1 || missing="$missing tesseract-ocr"
if ! command -v tesseract >/dev/null 2>&1 || ! tesseract --list-langs 2>/dev/null | grep -qx eng; then
    missing="$missing tesseract-ocr-eng"
fi
[ -n "$missing" ] || exit 0

if can_install; then
    install
else
    fail "Missing:$missing. Install them and run make again; on Debian or Ubuntu: sudo apt-get install$missing"
fi
