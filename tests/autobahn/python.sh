#!/usr/bin/env bash
# Prints the path of a Python 2.7, which Autobahn's test suite is written in: PYTHON2, else one on the PATH, else pyenv's.
# Fails where there is none.
set -euo pipefail

for python in ${PYTHON2:-} python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do
  # A shim of pyenv is on the PATH though its version is not chosen: ask.
  if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
    command -v "$python"
    exit
  fi
done
exit 1
