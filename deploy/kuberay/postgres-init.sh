#!/bin/sh
# Run once by the postgres image on an empty data folder: a role and a database each for the studies and for MLflow.
# The passwords are those of the clients' service files; psql reads them itself, so they are not in the process list.
set -eu
export SECRETS="${SECRETS:-/run/secrets}"
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'EOF'
\set proxytune `sed -n 's/^password=//p' "$SECRETS/postgres-proxytune/pg_service.conf"`
\set mlflow `sed -n 's/^password=//p' "$SECRETS/postgres-mlflow/pg_service.conf"`
CREATE ROLE proxytune LOGIN PASSWORD :'proxytune';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE proxytune OWNER proxytune;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE ALL ON DATABASE proxytune, mlflow, mlflow_auth FROM PUBLIC;
EOF
