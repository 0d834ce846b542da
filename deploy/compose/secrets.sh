#!/bin/sh
# Makes what the federation proves itself by, once: a CA, certificates, the operator's key. What exists stays.
# /secrets/ca is for this service alone; every other folder there is one service's, and holds what that one needs.
set -eu
umask 077
cd /secrets
if [ ! -e ca/coordinator.pem ]; then
  fedgalore certs --dir ca --host coordinator --host localhost --host 127.0.0.1 ${COORDINATOR_HOST:+--host "$COORDINATOR_HOST"}
fi
cp ca/ca.pem ca/coordinator.pem ca/coordinator.key coordinator/
[ -s coordinator/operator.key ] || { rm -f coordinator/operator.key; fedgalore certs --dir coordinator --operator-key; }
for agent in "$@"; do
  [ -e "ca/agent-$agent.pem" ] || fedgalore certs --dir ca --agent "$agent"
  cp ca/ca.pem "$agent/ca.pem"
  cp "ca/agent-$agent.pem" "$agent/agent.pem"
  cp "ca/agent-$agent.key" "$agent/agent.key"
done
