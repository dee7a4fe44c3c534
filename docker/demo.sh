#!/bin/bash
# The service `demo`: a connection to the demo PACS, and images for it. Safe to repeat.
# Arguments: AE title and port of the receiver.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cat >"$folder/config.json" <<END
{"server_address": "orthanc", "port": 4242, "server_AET": "ORTHANC", "AET": "$1",
 "move_AET": "", "move_port": $2, "batch_size": 0, "batch_wait_time": 0}
END
pacsifier-connection --config "$folder/config.json" --name orthanc --description "Demo PACS" --replace
python -c 'import sys; from pathlib import Path; from pacsifier_ops.embedded.phantoms import demo_cohort
demo_cohort(Path(sys.argv[1]))' "$folder/images"
# What it holds, it forgets when it stops: ask nobody's memory what to send.
pacsifier --config "$folder/config.json" --upload --upload_directory "$folder/images" --out_directory "$folder/out" --resend
