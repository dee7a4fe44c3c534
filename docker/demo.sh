#!/bin/bash
# The service `demo`: a connection to the demo PACS, and images for it. Safe to repeat.
# Arguments: host and port of the demo PACS, AE title and port of the receiver.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cat >"$folder/config.json" <<END
{"server_address": "$1", "port": $2, "server_AET": "ORTHANC", "AET": "$3",
 "move_AET": "", "move_port": $4, "batch_size": 0, "batch_wait_time": 0}
END
pacsifier-connection --config "$folder/config.json" --name orthanc --description "Demo PACS" --replace
python -c 'import sys; from pathlib import Path; from pacsifier_ops.embedded.phantoms import demo_cohort
demo_cohort(Path(sys.argv[1]))' "$folder/images"
# It forgets what it holds when it stops, so what was confirmed earlier is sent again.
pacsifier --config "$folder/config.json" --upload --upload_directory "$folder/images" --out_directory "$folder/out" --resend
