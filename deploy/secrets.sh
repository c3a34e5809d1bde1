#!/bin/sh
# Create all secrets of a deployment as files under deploy/secrets: compose.yaml mounts them, and
# `kubectl create secret generic NAME --from-file=deploy/secrets/NAME` reads each folder.
# Only the owner has access to the folder; the files inside are readable, since containers read them under other user ids.
set -eu
umask 077
folder="$(cd "$(dirname "$0")" && pwd)/secrets"
if [ -e "$folder" ]; then
    echo "secrets.sh: $folder exists and is not overwritten. Remove it to create new secrets." >&2
    exit 2
fi

random() {
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

temporary="$folder.$$"
trap 'rm -rf "$temporary"' EXIT
for name in ray-token service-token postgres postgres-proxytune postgres-mlflow mlflow-server mlflow-client; do
    mkdir -p "$temporary/$name"
done
cd "$temporary"
echo '*' >.gitignore
random >ray-token/auth_token
printf 'admin:%s\nprometheus:metrics:%s\n' "$(random)" "$(random)" >service-token/token
random >postgres/password
# libpq's service files: unlike a .pgpass they may be mounted with any mode. PGSERVICE names the section.
printf '[proxytune]\npassword=%s\n' "$(random)" >postgres-proxytune/pg_service.conf
printf '[mlflow]\npassword=%s\n' "$(random)" >postgres-mlflow/pg_service.conf
random >mlflow-server/secret_key
password=$(random)
printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' "$password" >mlflow-client/credentials
cat >mlflow-server/basic_auth.ini <<EOF
[mlflow]
default_permission = READ
database_uri = postgresql+psycopg://mlflow@postgres/mlflow_auth
admin_username = admin
admin_password = $password
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
EOF
chmod 0444 ./*/*
cd ..
mv "$temporary" "$folder"
echo "created $folder; store a backup in a safe place"
