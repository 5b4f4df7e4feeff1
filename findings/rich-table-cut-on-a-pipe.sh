#!/usr/bin/env bash
# rich 15.0.0: a table that is written to a pipe is 80 columns wide, and what does not fit is cut.
#
# One would guess: where there is no terminal there is no width, and a cell is written whole, so that the next program
# of the pipe can use it.
#
# Seen: the names end in an ellipsis.
#
#   │ a-generation-wit… │ a-detector-with-… │ an-embedder-wit… │ a-state-with-a-l… │
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rich==15.0.0
cat > "$folder/table.py" <<'PYTHON'
from rich.console import Console
from rich.table import Table

table = Table("generation", "detector", "embedder", "state")
table.add_row(*(f"{name}-with-a-long-name" for name in ("a-generation", "a-detector", "an-embedder", "a-state")))
Console().print(table)
PYTHON
env -u COLUMNS -u FORCE_COLOR -u TTY_COMPATIBLE "$folder/venv/bin/python" "$folder/table.py" | tee "$folder/printed"
if grep -q long-name "$folder/printed"; then exit 1; fi
grep -q 'a-generation-wit…' "$folder/printed"
