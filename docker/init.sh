#!/bin/bash
# The service `init`: database, connections, pools, folders, the first user. Leaves alone what is there; safe to repeat.
# Arguments: file with the first password of the user admin, file with connections.
set -euo pipefail
airflow db migrate
airflow connections import "$2"
pacsifier-init
# Over standard input: arguments can be seen by every user of the machine.
password="$(cat "$1")"
printf '%s\n%s\n' "$password" "$password" | airflow users create \
    --username admin --firstname PACSIFIER --lastname Administrator --email admin@localhost --role Admin
