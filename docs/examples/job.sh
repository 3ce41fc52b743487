#!/usr/bin/env bash
# Sends a tool call as a job and waits for the answer. A repeat with the same key does not call the tool again.
# Usage: job.sh [URL] [KEY]. The server `everything` must be registered; ADMIN_TOKEN is the token, if there is one.
set -euo pipefail
url=${1:-http://127.0.0.1:8080}
key=${2:-example-$RANDOM$RANDOM}
token="authorization: Bearer ${ADMIN_TOKEN:-none}"

accepted=$(curl --silent --show-error --fail-with-body -X POST "$url/mcp/tool/call" \
  -H 'content-type: application/json' -H 'prefer: respond-async' -H "idempotency-key: $key" -H "$token" \
  -d '{"serverName": "everything", "methodName": "echo", "args": {"message": "later"}}')
echo "$accepted"
job=$(sed 's/.*"jobId":"\([^"]*\)".*/\1/' <<<"$accepted")

curl --silent --show-error --fail-with-body "$url/jobs/$job?wait=30s" -H "$token"
echo
