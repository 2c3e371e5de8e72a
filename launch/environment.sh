# Sourced by the other scripts: makes .venv with the given requirements, once, and activates it.
# shellcheck shell=bash

usable_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c \
      'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: needs Python 3.11, 3.12 or 3.13; set PYTHON to one" >&2
  return 1
}

# environment FILE...: installs the requirements of these files unless that is done already.
environment() {
  local python stamp file arguments=()
  if [ ! -x .venv/bin/python ]; then
    python=$(usable_python)
    echo "Making .venv with $("$python" --version)"
    "$python" -m venv .venv
  fi
  for file in "$@"; do
    stamp=.venv/installed-${file//\//-}
    cmp -s "$file" "$stamp" || arguments+=(-r "$file")
  done
  if [ ${#arguments[@]} -gt 0 ]; then
    echo "Installing ${arguments[*]} (a minute or two)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
    for file in "$@"; do cp "$file" ".venv/installed-${file//\//-}"; done
  fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
}
