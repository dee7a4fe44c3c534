#!/bin/sh
# What docker-compose.yml needs on this machine: .env, secrets, folders. Makes what is not there and leaves what is.
# Argument: folder of the project (default: this one).
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
cd "${1:-$(dirname "$here")}"
umask 077

# Containers run as whoever calls this; root is nobody to run a container as.
user="$(id -u)"
[ "$user" -ne 0 ] || user=50000

# A file appears under its name only when it is whole.
put() {
    cat >"$1.part"
    mv "$1.part" "$1"
}

time_zone() {
    if [ -n "${TZ-}" ]; then
        echo "$TZ"
    elif [ -s /etc/timezone ]; then
        cat /etc/timezone
    else
        readlink /etc/localtime | sed 's|.*/zoneinfo/||'
    fi
}

if [ ! -e .env ]; then
    sed -e "s|^PACSIFIER_TIMEZONE=.*|&$(time_zone)|" \
        -e "s|^PACSIFIER_UID=.*|&$user|" \
        -e "s|^PACSIFIER_FOLDER=.*|&$PWD/run/docker|" "$here/env.example" | put .env
fi

# The folder is for its owner only. The files can be read by everybody who is given one, that is a container: each
# runs as a user of its own.
secrets="$PWD/docker/secrets"
mkdir -p "$secrets"
chmod 700 "$secrets"
secret() {
    [ -s "$secrets/$1" ] || put "$secrets/$1"
    chmod 444 "$secrets/$1"
}
random() {
    od -An -vtx1 -N"${1:-32}" /dev/urandom | tr -d ' \n'
}
head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' | secret fernet_key
random | secret jwt_secret
random | secret api_secret_key
random 9 | secret admin_password
random | secret database_password
random | secret redis_password
# The same two as the programs want them.
printf 'postgresql://airflow:%s@postgres/airflow' "$(cat "$secrets/database_password")" | secret database_url
printf 'redis://:%s@redis:6379/0' "$(cat "$secrets/redis_password")" | secret broker_url
printf 'requirepass %s\n' "$(cat "$secrets/redis_password")" | secret redis_conf

folder="$(sed -n 's/^PACSIFIER_FOLDER=//p' .env)"
user="$(sed -n 's/^PACSIFIER_UID=//p' .env)"
: "${folder:?PACSIFIER_FOLDER is empty in .env}" "${user:?PACSIFIER_UID is empty in .env}"
for name in data state state/requests state/cancelled state/leases; do
    [ -d "$folder/$name" ] || {
        mkdir -p "$folder/$name"
        [ "$(id -u)" -ne 0 ] || chown "$user:0" "$folder/$name"
    }
done

echo "settings  $PWD/.env (read them)"
echo "secrets   $secrets (keep a copy in a safe place; admin_password is that of the user admin)"
echo "data      $folder"
