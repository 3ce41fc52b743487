#!/usr/bin/env bash
# Registers a server, stores a secret for the user ana, and calls a tool with the secret.
# Usage: first-call.sh [URL]. The program runs `mcp-api serve` at URL; ADMIN_TOKEN is its token, if it has one.
set -euo pipefail
url=${1:-http://127.0.0.1:8080}

post() {
  curl --silent --show-error --fail-with-body -X POST "$url$1" \
    -H 'content-type: application/json' -H "authorization: Bearer ${ADMIN_TOKEN:-none}" -d "$2"
  echo
}

post /mcp/servers '{
  "name": "everything", "command": "npx", "args": ["-y", "@modelcontextprotocol/server-everything"]}'
post /secrets/set '{
  "username": "ana", "serverName": "everything", "secretName": "message", "secretValue": "only for ana"}'
post /mcp/tool/call '{
  "username": "ana", "serverName": "everything", "methodName": "echo", "args": {}}'
