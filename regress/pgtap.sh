#!/bin/bash
# Runs one pgTAP file in a database of its own, with pgtap and tlaw in it.
set -eu
name=pgtap_$(basename "$1" .sql)
trap 'dropdb --force --if-exists "$name" >/dev/null 2>&1' EXIT
createdb "$name"
psql -qX -v ON_ERROR_STOP=1 -d "$name" -c 'CREATE EXTENSION pgtap' -c 'CREATE EXTENSION tlaw' >/dev/null
psql -qAtX -v ON_ERROR_STOP=1 -d "$name" -f "$1"
