#!/bin/sh
# Our commands are run as they are; everything else is for the entry point of Airflow's image, which hands all it gets to
# `airflow` and refuses users whose group is not 0.
set -eu
case "${1-}" in
pacsifier | pacsifier-* | *.py)
    # Where no volume says otherwise, what must outlive the container lies in the folder that it was started in.
    export PACSIFIER_HOME="${PACSIFIER_HOME:-$PWD/.pacsifier}"
    exec "$@"
    ;;
esac
exec /entrypoint "$@"
