#!/usr/bin/env bash
# Builds the wheel, installs it alone (no extras) into a clean environment, and runs tests/library there with the
# source tree out of the way: proves that the library needs neither the platform nor the checkout.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rm -rf "$root/dist"
PATH="$root/.venv/bin:$PATH" "$root/.venv/bin/python" -m pip wheel --quiet --disable-pip-version-check \
  --no-deps --no-build-isolation --wheel-dir "$root/dist" "$root"
ls -l "$root"/dist/*.whl

# The versions of the lock, without its hashes: the wheel itself has none.
sed -nE 's/^([A-Za-z0-9._-]+==[^ ]+( ; [^\\]+)?) .*/\1/p' "$root/requirements/dev.lock" > "$work/constraints.txt"
"${PYTHON:-python3}" -m venv "$work/venv"
install() { "$root/.venv/bin/uv" pip install --quiet --python "$work/venv/bin/python" --constraint "$work/constraints.txt" "$@"; }
install "$root"/dist/*.whl
echo "installed with the bare wheel:"
"$root/.venv/bin/uv" pip list --quiet --python "$work/venv/bin/python"
install pytest pytest-asyncio pytest-timeout hypothesis

cp -r "$root/tests/library" "$work/library"
cp "$root/tests/conftest.py" "$root/tests/programs.py" "$work"
cd "$work"
cat > pytest.ini <<'INI'
[pytest]
addopts = --import-mode=importlib -p no:cacheprovider -m "not soak"
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
timeout = 300
filterwarnings = error
INI
TRITIUM_EXAMPLES="$root/examples" "$work/venv/bin/python" -P -m pytest -q library
