#!/bin/sh
# Makes a join token for every example agent that has none yet.
set -eu
for agent in "$@"; do
  token="/secrets/$agent/join-token"
  [ -e "$token" ] || fedgalore agents invite "$agent" --out "$token"
done
