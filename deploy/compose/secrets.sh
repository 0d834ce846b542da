#!/bin/sh
# Creates the federation's credentials once: a CA, certificates, the operator's key. Existing files stay.
# /secrets/ca is for this service alone. Every other folder belongs to a service and holds what that service needs.
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
